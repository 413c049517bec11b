/**
 * Where the files of a model are: beside a path or a URL, or among Files and sources that were given. It opens them and reads none.
 */
import { TidepoolError } from "../errors.ts";
import { baseName, namesIn, openBlob, openPath, openUrl, pathKind } from "./source.ts";
import type { Source, UrlOptions } from "./source.ts";

/**
 * What to open: a path (Node, Deno), a URL (http, https, blob, file names resolved beside it), Files, or sources. Lists
 * are matched by file name.
 */
export type ModelLocation = string | URL | readonly File[] | readonly Source[] | ModelPlace;

/** Opens a sibling by file name; `undefined` where there is none. */
export type Locate = (name: string) => Promise<Source | undefined>;

/** A model's files, wherever they are, opened when they are asked for. */
export interface ModelPlace {
  /** The file that was named; `undefined` for a folder. */
  first: Source | undefined;
  locate: Locate;
  /** What is there, if that can be listed. */
  names?(): Promise<string[]>;
}

/** Where a model's files are. @param keep is called with every source that is opened */
export async function placeOf(
  location: ModelLocation,
  options: UrlOptions,
  keep: (source: Source) => Source,
): Promise<ModelPlace> {
  if (location instanceof URL || (typeof location === "string" && /^(https?|blob):/.test(location))) {
    return urlPlace(String(location), options, keep);
  }
  if (typeof location === "string") return pathPlace(location, keep);
  if ("locate" in location) return keptPlace(location, keep);
  const sources = location.map((item) => keep(item instanceof Blob ? openBlob(item, item.name) : item));
  return listPlace(sources);
}

/** A place whose sources are closed with the model. */
function keptPlace({ first, locate, names }: ModelPlace, keep: (source: Source) => Source): ModelPlace {
  const located: Locate = async (name) => {
    const source = await locate(name);
    return source && keep(source);
  };
  return { first: first && keep(first), locate: located, ...(names && { names }) };
}

function listPlace(sources: Source[]): ModelPlace {
  if (sources.length === 0) throw new TidepoolError("invalid_argument", "no model files were given");
  const byName = new Map(sources.map((source) => [baseName(source.name), source]));
  if (byName.size !== sources.length) {
    throw new TidepoolError("invalid_argument", "two of the model files have the same name");
  }
  const gguf = sources.find((source) => source.name.endsWith(".gguf"));
  const weights = sources.filter((source) => source.name.endsWith(".safetensors"));
  const single = weights.length === 1 ? weights[0] : sources.length === 1 ? sources[0] : undefined;
  return {
    first: gguf ?? single,
    locate: (name) => Promise.resolve(byName.get(name)),
    names: () => Promise.resolve([...byName.keys()]),
  };
}

async function pathPlace(path: string, keep: (source: Source) => Source): Promise<ModelPlace> {
  const kind = await pathKind(path);
  if (kind === "absent") throw new TidepoolError("not_found", `${path} does not exist`, { path });
  const folder = kind === "folder" ? path.replace(/[/\\]+$/, "") : path.slice(0, -baseName(path).length);
  const separator = kind === "folder" ? "/" : "";
  const locate: Locate = async (name) => {
    const sibling = `${folder}${separator}${name}`;
    return (await pathKind(sibling)) === "file" ? keep(await openPath(sibling)) : undefined;
  };
  const names = () => namesIn(folder === "" ? "." : folder);
  return { first: kind === "file" ? keep(await openPath(path)) : undefined, locate, names };
}

/** The model that a URL names: its file, and those beside it. */
async function urlPlace(
  url: string,
  options: UrlOptions,
  keep: (source: Source) => Source,
): Promise<ModelPlace> {
  const locate: Locate = async (name) => {
    try {
      return keep(await openUrl(siblingUrl(url, name), options));
    } catch (error) {
      if (error instanceof TidepoolError && error.code === "not_found") return undefined;
      throw error;
    }
  };
  return { first: isFileUrl(url) ? keep(await openUrl(url, options)) : undefined, locate };
}

/** Whether a URL names a file, not a folder of safetensors. */
export function isFileUrl(url: string): boolean {
  return /\.(gguf|safetensors|json)$/.test(new URL(url).pathname) || url.startsWith("blob:");
}

/** The URL of a file beside `url` (in it, if it names no file), with the same query. */
export function siblingUrl(url: string, name: string): string {
  const sibling = new URL(url);
  const isFile = /\.(gguf|safetensors|json)$/.test(sibling.pathname);
  const folder = isFile ? sibling.pathname.replace(/[^/]*$/, "") : sibling.pathname.replace(/\/*$/, "/");
  sibling.pathname = folder + name.split("/").map(encodeURIComponent).join("/");
  return sibling.href;
}

/** @throws TidepoolError `not_found` if the model is not complete */
export async function needed(place: ModelPlace, name: string): Promise<Source> {
  const source = await place.locate(name);
  if (source === undefined) throw await missing(place, name, "the model is not complete without it");
  return source;
}

/** Names that an error lists at most. */
const MAX_LISTED = 8;

/** What is there instead is often the file that was meant. */
export async function missing(place: ModelPlace, file: string, why: string): Promise<TidepoolError> {
  const names = ((await place.names?.().catch(() => [])) ?? []).filter((name) => !name.startsWith("."));
  const more = names.length > MAX_LISTED ? ` and ${names.length - MAX_LISTED} more` : "";
  const there = names.length > 0 ? `; there are ${names.slice(0, MAX_LISTED).join(", ")}${more}` : "";
  return new TidepoolError("not_found", `${file} was not found: ${why}${there}`, { file });
}
