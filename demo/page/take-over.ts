/** What a new version of the page's service worker is told when it shall take over. */
export const TAKE_OVER = "take over";
