/**
 * A model on a server, as names and addresses: which file is the model, which lie beside it, and where each one is. The
 * Hub is asked through a function, so that a listing may also come from what is kept.
 */
import { TidepoolError } from "../../errors.ts";
import { chooseFile, hubBase, hubRemote, type HubFile, type HubListing, type HubOptions } from "./hub.ts";
import type { Remote } from "./http.ts";
import { isFileUrl, siblingUrl } from "../place.ts";
import { hubModelName, parseModelName, type HubName } from "../model-name.ts";
import { baseName } from "../source.ts";

/** One file of a model, and what is known of it before it is asked for. */
export interface RemoteFile {
  remote: Remote;
  /** What it is kept under: the same file of the same revision has the same identity. */
  identity: string;
  /** Name or path within the model. */
  file: string;
  commit?: string;
  sizeBytes?: number;
  sha256?: string;
  /** It is in the Hub's listing, so that its absence is an error. */
  isListed: boolean;
}

export interface RemoteModel {
  /** By which it is listed and removed. */
  name: string;
  /** What one download at a time is locked by. */
  lockName: string;
  /** The file that was named or chosen; undefined for a folder of safetensors. */
  first: RemoteFile | undefined;
  /** A file beside the first one, if it may exist. */
  sibling(name: string): RemoteFile | undefined;
}

/** The model at a URL. */
export function urlModel(url: string): RemoteModel {
  const base = withoutFragment(url);
  const fileAt = (address: string): RemoteFile => ({
    remote: { url: address },
    identity: address,
    file: decodeURIComponent(baseName(new URL(address).pathname)),
    isListed: false,
  });
  return {
    name: base,
    lockName: new URL("./", base).href,
    first: isFileUrl(base) ? fileAt(base) : undefined,
    sibling: (name) => fileAt(siblingUrl(base, name)),
  };
}

function withoutFragment(url: string): string {
  const parsed = new URL(url, globalThis.location?.href);
  parsed.hash = "";
  return parsed.href;
}

/** A model of the Hub, from its repository's listing. @throws TidepoolError where the choice is not clear */
export function hubModel(hub: HubOptions, name: HubName, listing: HubListing): RemoteModel {
  const path = chooseFile(name, listing);
  const folder = path === undefined ? "" : path.slice(0, path.length - baseName(path).length);
  const byPath = new Map(listing.files.map((file) => [file.path, file]));
  const fileAt = (found: HubFile): RemoteFile => ({
    remote: hubRemote(hub, name.repo, listing.commit, found.path),
    identity: `${hubIdentity(hub, name)} ${found.path}`,
    file: found.path,
    commit: listing.commit,
    ...(found.sizeBytes !== undefined && { sizeBytes: found.sizeBytes }),
    ...(found.sha256 !== undefined && { sha256: found.sha256 }),
    isListed: true,
  });
  const first = path === undefined ? undefined : byPath.get(path);
  return {
    name: hubModelName(name),
    lockName: hubIdentity(hub, name),
    first: first && fileAt(first),
    sibling: (sibling) => {
      const found = byPath.get(folder + sibling);
      return found && fileAt(found);
    },
  };
}

/** What a repository at a revision is kept under, whatever commit that is. */
export function hubIdentity(hub: HubOptions, { repo, revision }: Pick<HubName, "repo" | "revision">): string {
  return `${hubBase(hub)} ${repo}@${revision}`;
}

/** The name under which a model is listed, from any name that loads it, and the file of it that was named. */
export function listedName(name: string): { model: string; file?: string } {
  const parsed = parseModelName(name);
  if (parsed.kind === "hub") {
    return { model: hubModelName(parsed), ...(parsed.file !== undefined && { file: parsed.file }) };
  }
  if (parsed.kind === "url") return { model: withoutFragment(parsed.url) };
  throw new TidepoolError("invalid_argument", `"${name}" is neither a Hub id nor a URL; only those are kept`);
}
