/** The message that asks a new version of the page's service worker to take over. */
export const TAKE_OVER = "take over";
