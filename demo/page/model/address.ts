/** What a user types or pastes for a model, as a choice: an address, a Hub id, or a page of the Hub. It fetches nothing. */
import type { Choice } from "./host.ts";

/** A repository's page on the Hub, or a file's: what stands in the browser's address bar there. */
const HUB_PAGE =
  /^https:\/\/(?:huggingface|hf)\.co\/([\w.-]+\/[\w.-]+)(?:\/(?:tree|blob)\/([^/?#]+)(?:\/([^?#]+))?)?\/?(?:[?#]|$)/;

/** An address as such; anything else as a name that the engine looks up, and refuses where it is none. */
export function addressChoice(text: string): Choice {
  const typed = text.trim();
  const [isHubPage, repo = "", revision = "main", file] = HUB_PAGE.exec(typed) ?? [];
  if (isHubPage !== undefined) {
    const id = `${repo}${revision === "main" ? "" : `@${revision}`}${file === undefined ? "" : `/${file}`}`;
    return { name: id, model: id };
  }
  if (!/^[a-z]+:\/\//i.test(typed) || !URL.canParse(typed)) return { name: typed, model: typed };
  const url = new URL(typed);
  return { name: url.pathname.split("/").at(-1) || url.host, model: url };
}
