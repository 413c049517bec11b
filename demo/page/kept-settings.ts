/**
 * Small settings kept in the browser's local storage, by name. Where there is none, as in some private windows, they last
 * as long as the page: nothing that matters is kept here.
 */
const PREFIX = "tidepool.";

/** Settings of this page, for browsers that refuse storage. */
const here = new Map<string, string>();

export function readSetting(name: string): string | undefined {
  try {
    return localStorage.getItem(PREFIX + name) ?? here.get(name);
  } catch {
    return here.get(name);
  }
}

export function writeSetting(name: string, value: string): void {
  here.set(name, value);
  try {
    localStorage.setItem(PREFIX + name, value);
  } catch {
    // Refused or full: `here` has it.
  }
}
