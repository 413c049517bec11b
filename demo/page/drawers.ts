/**
 * Panels beside the main part: in place where there is room, drawers that cover it where there is not. One drawer is open
 * at a time; Escape closes it and gives the focus back.
 */
import { el, iconButton } from "./dom.ts";
import type { IconName } from "./icons.ts";

interface Drawer {
  panel: HTMLElement;
  icon: IconName;
  label: string;
}

export class Drawers {
  /** One for each panel, in their order; the stylesheet hides them where the panels have room. */
  readonly buttons: HTMLButtonElement[];
  private readonly main: HTMLElement;
  private readonly panels: HTMLElement[];
  private open: number | undefined;

  constructor(main: HTMLElement, drawers: readonly Drawer[]) {
    this.main = main;
    this.panels = drawers.map(({ panel }) => panel);
    this.buttons = drawers.map(({ panel, icon, label }, i) =>
      iconButton(icon, label, () => this.show(i), {
        class: "plain square drawer",
        bare: true,
        "aria-expanded": "false",
        "aria-controls": panel.id,
      }),
    );
    drawers.forEach(({ panel, label }) => {
      const close = iconButton("close", `Close ${label.toLowerCase()}`, () => this.close(), {
        class: "plain square drawer",
        bare: true,
      });
      panel.prepend(el("div", { class: "drawer-head" }, el("strong", {}, label), close));
      panel.addEventListener("keydown", (event) => {
        if (event.key === "Escape" && !event.defaultPrevented) this.close();
      });
    });
  }

  private show(index: number): void {
    this.open = index;
    this.draw();
    this.panels[index]?.querySelector<HTMLElement>("button")?.focus();
  }

  close(): void {
    const was = this.open;
    this.open = undefined;
    this.draw();
    if (was !== undefined) this.buttons[was]?.focus();
  }

  private draw(): void {
    this.main.inert = this.open !== undefined;
    this.panels.forEach((panel, i) => panel.classList.toggle("open", i === this.open));
    this.buttons.forEach((button, i) => (button.ariaExpanded = String(i === this.open)));
  }
}
