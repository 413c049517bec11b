/** Light or dark: as the system says, unless the user chooses. The choice is kept; without storage it lasts for the page. */
import { el } from "./dom.ts";
import { icon, type IconName } from "./icons.ts";
import { readSetting, writeSetting } from "./kept-settings.ts";

const THEMES = ["auto", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

const ICONS: Record<Theme, IconName> = { auto: "auto", light: "sun", dark: "moon" };
const KEY = "theme";

/** The button that goes from one theme to the next; it sets the kept one at once. */
export function themeButton(): HTMLButtonElement {
  let theme = THEMES.find((one) => one === readSetting(KEY)) ?? "auto";
  const made = el("button", { type: "button", class: "plain square" });
  const show = (): void => {
    document.documentElement.dataset["theme"] = theme;
    made.replaceChildren(icon(ICONS[theme]));
    made.ariaLabel = made.title = `Theme: ${theme}`;
  };
  made.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "auto";
    writeSetting(KEY, theme);
    show();
  });
  show();
  return made;
}
