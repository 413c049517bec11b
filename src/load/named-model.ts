/**
 * Opens a model by whatever it is called: a Hub id, a URL, a path, or files. Remote models come from what is kept, or are
 * kept while they are read. It parses names and puts the pieces together.
 */
import { RUNTIME } from "../base.ts";
import { TidepoolError } from "../errors.ts";
import { hubModelName, parseModelName, type HubName } from "./model-name.ts";
import { openModel, type ModelFile } from "./model-file.ts";
import { openModelFolder, type ModelsOptions } from "./download/kept/model-store.ts";
import { onceMoreIfChanged, RemoteLoad, type RemoteSettings } from "./download/remote-load.ts";
import { openBlob, pathKind } from "./source.ts";

export interface NamedModelOptions extends Omit<RemoteSettings, "folder"> {
  models?: ModelsOptions | undefined;
}

export interface OpenedModel {
  file: ModelFile;
  /** Waits until all that was opened is kept and checked; at once for what is here already. */
  finish(): Promise<void>;
  /** Whether all bytes are here, checked or not. */
  isWhole(): boolean;
  /** Ends downloads under way; the file is closed, too. */
  close(): Promise<void>;
  /** Bytes that came over the network, so far. */
  receivedBytes(): number;
}

/** Files that came from a page's user. */
export type NamedBlobs = readonly { name: string; blob: Blob }[];

const NOT_KEPT = {
  code: "models_not_kept",
  message:
    "this browser offers neither OPFS nor the Cache API here, as in some private windows: the model is not kept, and comes over the network at each load",
};

/** @throws TidepoolError `not_found`, `invalid_file`, `invalid_argument`, `source`, `aborted`. */
export async function openNamedModel(
  model: string | NamedBlobs,
  options: NamedModelOptions = {},
): Promise<OpenedModel> {
  if (typeof model !== "string")
    return localModel(await openModel(model.map((m) => openBlob(m.blob, m.name))));
  const name = parseModelName(model);
  const isBlob = name.kind === "url" && name.url.startsWith("blob:");
  if (name.kind === "path" || isBlob || (name.kind === "hub" && (await isLocal(name, model)))) {
    if (RUNTIME === "browser" && !isBlob) {
      const text = `"${model}" is neither a Hub id (org/repo) nor an address; a page reads no paths`;
      throw new TidepoolError("invalid_argument", text);
    }
    return localModel(await openModel(model));
  }
  return openRemote(name, options);
}

function localModel(file: ModelFile): OpenedModel {
  return {
    file,
    finish: () => Promise.resolve(),
    isWhole: () => true,
    close: () => file.close(),
    receivedBytes: () => 0,
  };
}

/** A path goes before a Hub id, also one that names nothing in a folder that is there. */
async function isLocal(name: HubName, model: string): Promise<boolean> {
  if (name.isExplicit || RUNTIME === "browser") return false;
  if ((await pathKind(model)) !== "absent") return true;
  return name.file !== undefined && (await pathKind(model.slice(0, model.indexOf("/")))) === "folder";
}

async function openRemote(
  name: HubName | { kind: "url"; url: string },
  { models = {}, ...settings }: NamedModelOptions,
): Promise<OpenedModel> {
  const folder = await openModelFolder(models);
  if (!folder && models.keep !== false) settings.onNotice?.(NOT_KEPT);
  const load = new RemoteLoad({ ...settings, folder });
  try {
    const file = await openModel(await load.open(name), {
      ...(settings.signal && { signal: settings.signal }),
    });
    return {
      file,
      finish: () => load.finish(),
      isWhole: () => load.isWhole,
      receivedBytes: () => load.receivedBytes,
      close: async () => {
        await load.close();
        await file.close();
      },
    };
  } catch (error) {
    await load.close();
    throw error;
  }
}

/** The outcome of a pull. */
export interface PullResult {
  name: string;
  /** Bytes of the model's files. */
  sizeBytes: number;
  /** Bytes that this pull downloaded. */
  receivedBytes: number;
}

/** Downloads a model, or finishes or refreshes what is kept of it. @throws TidepoolError */
export async function pullModel(model: string, options: NamedModelOptions = {}): Promise<PullResult> {
  const name = parseModelName(model);
  if (name.kind === "path") {
    throw new TidepoolError(
      "invalid_argument",
      `"${model}" is neither a Hub id nor a URL: there is nothing to download`,
    );
  }
  let receivedBytes = 0;
  const sizeBytes = await onceMoreIfChanged(async () => {
    const opened = await openRemote(name, { purpose: "refresh", ...options });
    try {
      await opened.finish();
      return opened.file.sources.reduce((sum, source) => sum + source.sizeBytes, 0);
    } finally {
      receivedBytes += opened.receivedBytes();
      await opened.close();
    }
  });
  return { name: name.kind === "hub" ? hubModelName(name) : name.url, sizeBytes, receivedBytes };
}
