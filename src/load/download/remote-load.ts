/**
 * Opens the files of a remote model for one load: from what is kept, or as downloads into what is kept, under a lock that
 * lets one tab or process at a time download a model. Where nothing can be kept, and for a look at headers alone, files
 * are read in ranges from the server.
 */
import { onAbort } from "../../base.ts";
import { TidepoolError } from "../../errors.ts";
import { directSource } from "./direct-source.ts";
import { downloadWorld, untilStalled, type DownloadWorld, type Retry } from "./limits.ts";
import { FileDownload, mayRestart } from "./file-download.ts";
import { hubAuthorization, listingText, listingUrl, listRepository, parseListing } from "./hub.ts";
import type { HubListing, HubOptions } from "./hub.ts";
import { asSourceError, type RangeAnswer } from "./http.ts";
import { keptValue, parseKept, type Kept, type KeptFile } from "./kept/kept-file.ts";
import { keyOf, payloadName, RecordFile, type ModelFolder, type Release } from "./kept/model-folder.ts";
import type { ModelPlace } from "../place.ts";
import { hubModelName, type HubName } from "../model-name.ts";
import { hubIdentity, hubModel, urlModel, type RemoteFile, type RemoteModel } from "./remote-model.ts";
import { baseName, openBytes, RANGELESS_BYTES, type Source } from "../source.ts";
import { cut, firstAnswer, retrying, Transfer, type OnTransfer, type Waiting } from "./transfer.ts";

export interface LoadNotice {
  code: string;
  message: string;
}

export interface RemoteSettings {
  hub?: HubOptions | undefined;
  /** Where models are kept; none: they are not. */
  folder?: ModelFolder | undefined;
  /** "load" (default) keeps what it downloads; "header" reads what it needs and keeps nothing; "refresh" asks the server whether what is kept is still the same. */
  purpose?: "load" | "header" | "refresh" | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: OnTransfer | undefined;
  onNotice?: ((notice: LoadNotice) => void) | undefined;
  /** Told when another tab or process downloads the model, so that this load waits for it. */
  onWaiting?: (() => void) | undefined;
  /** Told of each failure after which a request is made again. */
  onRetry?: ((retry: Retry) => void) | undefined;
  /** For tests. */
  world?: Partial<DownloadWorld> | undefined;
}

const forHeader = (world: DownloadWorld): DownloadWorld => {
  const attempts = Math.min(world.limits.attempts, world.limits.headerAttempts);
  return { ...world, limits: { ...world.limits, attempts } };
};

export class RemoteLoad {
  private readonly settings: RemoteSettings;
  private readonly hub: HubOptions;
  private readonly world: DownloadWorld;
  private readonly controller = new AbortController();
  private readonly transfer: Transfer;
  private readonly stopListening: () => void;
  private model: RemoteModel | undefined;
  private release: Release | undefined;
  private closing: Promise<void> | undefined;

  constructor(settings: RemoteSettings) {
    this.settings = settings;
    this.hub = settings.hub ?? {};
    const { onRetry } = settings;
    const world = downloadWorld({ ...settings.world, ...(onRetry && { onRetry }) });
    this.world = settings.purpose === "header" ? forHeader(world) : world;
    this.transfer = new Transfer(this.world, settings.onProgress);
    this.stopListening = onAbort(settings.signal, () => this.controller.abort());
  }

  /** Bytes that came over the network for the model's files. */
  get receivedBytes(): number {
    return this.transfer.receivedBytes;
  }

  /** The model's files, each opened when it is asked for. @throws TidepoolError */
  async open(name: HubName | { kind: "url"; url: string }): Promise<ModelPlace> {
    const model =
      name.kind === "url" ? urlModel(name.url) : hubModel(this.hub, name, await this.listing(name));
    this.model = model;
    const first = model.first && (await this.openFile(model.first, true));
    return {
      first,
      locate: async (sibling) => {
        const file = model.sibling(sibling);
        return file && this.openFile(file, false);
      },
    };
  }

  /** Whether all bytes of the opened files are here. */
  get isWhole(): boolean {
    return this.transfer.isWhole;
  }

  /** Waits until all opened files are kept whole and have been checked. */
  finish(): Promise<void> {
    return this.transfer.finish();
  }

  /** Ends what is under way; what came so far is kept, for the next time. */
  close(): Promise<void> {
    this.closing ??= this.end();
    return this.closing;
  }

  private async end(): Promise<void> {
    this.stopListening();
    this.controller.abort();
    try {
      await this.transfer.close();
    } finally {
      await this.release?.();
      this.release = undefined;
    }
  }

  private get folder(): ModelFolder | undefined {
    return this.settings.folder;
  }

  private get isPeek(): boolean {
    return this.settings.purpose === "header";
  }

  /** What the Hub said when it was first asked, so that all files are of one commit and no network is needed later. */
  private async listing(name: HubName): Promise<HubListing> {
    const identity = `${hubIdentity(this.hub, name)} listing`;
    const record = this.folder && new RecordFile(this.folder, keyOf(identity));
    const known = await this.keptListing(record);
    if (known) return known;
    if (!record || this.isPeek) return this.fetchListing(name);
    const lockName = hubIdentity(this.hub, name);
    await this.takeLock(lockName);
    const meanwhile = await this.keptListing(record);
    if (meanwhile) return meanwhile;
    const listing = await this.fetchListing(name);
    const model = hubModelName(name);
    await this.noted(record, { kind: "listing", model, lockName, text: listingText(listing) });
    return listing;
  }

  private async keptListing(record: RecordFile | undefined): Promise<HubListing | undefined> {
    const kept = parseKept(await record?.load());
    if (kept?.kind !== "listing" || this.settings.purpose === "refresh") return undefined;
    return parseListing(kept.text);
  }

  private fetchListing(name: HubName): Promise<HubListing> {
    const { signal } = this.controller;
    const remote = { url: listingUrl(this.hub, name), authorization: hubAuthorization(this.hub) };
    return retrying(remote, this.world, signal, () => listRepository(this.hub, name, signal));
  }

  private async takeLock(name: string): Promise<void> {
    if (!this.folder || this.release) return;
    const { timer, limits } = this.world;
    const stopTimer = timer.after(limits.waitSilentMs, () => this.settings.onWaiting?.());
    try {
      this.release = await this.folder.lock(keyOf(name), this.controller.signal);
    } finally {
      stopTimer();
    }
  }

  private async openFile(file: RemoteFile, isNeeded: boolean): Promise<Source | undefined> {
    const { folder } = this;
    if (!folder) return this.openDirect(file, isNeeded);
    const record = new RecordFile(folder, keyOf(file.identity));
    const known = await this.openKept(folder, record, file);
    if (known !== "unknown") return known;
    if (this.isPeek) return this.openDirect(file, isNeeded);
    await this.takeLock((this.model as RemoteModel).lockName);
    const meanwhile = await this.openKept(folder, record, file);
    if (meanwhile !== "unknown") return meanwhile;
    return this.download(folder, record, file, isNeeded);
  }

  /** The kept file, or undefined if it is known not to exist. */
  private async openKept(
    folder: ModelFolder,
    record: RecordFile,
    file: RemoteFile,
  ): Promise<Source | undefined | "unknown"> {
    const kept = parseKept(await record.load());
    const isRefresh = this.settings.purpose === "refresh";
    if (kept?.kind === "absent") return isRefresh || file.isListed ? "unknown" : undefined;
    if (kept?.kind !== "file" || !kept.isComplete || !agrees(kept, file)) return "unknown";
    if (isRefresh && !file.isListed && !(await this.isUnchanged(kept, file))) return "unknown";
    return (await folder.openKept(payloadName(record.key), kept.sizeBytes, nameOf(file))) ?? "unknown";
  }

  /** Asks the server whether it still has the file that is kept; where it cannot tell, it has not. */
  private async isUnchanged(kept: KeptFile, { remote }: RemoteFile): Promise<boolean> {
    const { answer } = await firstAnswer(remote, this.world, this.controller.signal, 1);
    await answer.body.cancel();
    return (
      answer.totalBytes === kept.sizeBytes &&
      answer.validator !== undefined &&
      answer.validator === kept.validator
    );
  }

  private async download(
    folder: ModelFolder,
    record: RecordFile,
    file: RemoteFile,
    isNeeded: boolean,
  ): Promise<Source | undefined> {
    const begun = await this.resumable(folder, record, file);
    if (begun) {
      this.transfer.add(begun);
      return begun.source(nameOf(file));
    }
    const first = await this.firstOf(file, isNeeded);
    const { name: model, lockName } = this.model as RemoteModel;
    if (!first) {
      await this.noted(record, { kind: "absent", model, lockName, file: file.file });
      return undefined;
    }
    const small = await wholeOfUnknownLength(file, first, this.world);
    const about = aboutOf(this.model as RemoteModel, file, first.answer, small?.length);
    if (!(await this.hasRoom(folder, about.sizeBytes)) || !(await this.noted(record, about))) {
      await first.answer.body.cancel();
      return this.openDirect(file, isNeeded);
    }
    await folder.remove(payloadName(record.key));
    const part = await folder.openPart(payloadName(record.key));
    const download = new FileDownload(file.remote, about, part, record, this.world);
    if (small) await download.write(0, small);
    this.transfer.add(download, small ? undefined : first);
    return download.source(nameOf(file));
  }

  /** A download that was begun earlier and is of the same file. */
  private async resumable(
    folder: ModelFolder,
    record: RecordFile,
    file: RemoteFile,
  ): Promise<FileDownload | undefined> {
    const kept = parseKept(await record.load());
    if (kept?.kind !== "file" || kept.isComplete || kept.have.length === 0 || !agrees(kept, file))
      return undefined;
    const left = kept.sizeBytes - kept.have.reduce((sum, { start, end }) => sum + end - start, 0);
    if (!(await this.hasRoom(folder, left))) return undefined;
    const part = await folder.openPart(payloadName(record.key));
    const download = new FileDownload(file.remote, kept, part, record, this.world);
    download.have.clip(await part.sizeBytes());
    return download;
  }

  /** Undefined if the server has no such file, and nobody needs it. */
  private async firstOf(file: RemoteFile, isNeeded: boolean, bytes?: number) {
    try {
      return await firstAnswer(file.remote, this.world, this.controller.signal, bytes);
    } catch (error) {
      const isAbsent = error instanceof TidepoolError && error.code === "not_found";
      if (isAbsent && !isNeeded && !file.isListed) return undefined;
      throw error;
    }
  }

  /** Writes a note; false where the storage is too full even for that, so that nothing can be kept. */
  private async noted(record: RecordFile, value: Kept): Promise<boolean> {
    try {
      await record.save(keptValue(value));
      return true;
    } catch (error) {
      if (!(error instanceof TidepoolError) || error.details["isFull"] !== true) throw error;
      this.settings.onNotice?.({ code: "models_no_room", message: error.message });
      return false;
    }
  }

  /** Said before, not found out at 80%. */
  private async hasRoom(folder: ModelFolder, sizeBytes: number): Promise<boolean> {
    const free = await folder.freeBytes();
    if (free === undefined || free >= sizeBytes) return true;
    const message = `the model needs ${sizeBytes} bytes and ${folder.place} has room for ${free}: it is not kept, and comes over the network at each load`;
    this.settings.onNotice?.({ code: "models_no_room", message });
    return false;
  }

  /** Reads in ranges from the server; nothing is kept. */
  private async openDirect(file: RemoteFile, isNeeded: boolean): Promise<Source | undefined> {
    const first = await this.firstOf(file, isNeeded, PROBE_BYTES);
    if (!first) return undefined;
    const { answer } = first;
    if (answer.isWhole) return openBytes(await wholeOf(file, first, this.world), nameOf(file));
    await answer.body.cancel();
    const { totalBytes: sizeBytes, validator, sha256 } = answer;
    if (sizeBytes === undefined) throw lengthUnknown(file);
    const facts = {
      sizeBytes,
      ...(validator !== undefined && { validator }),
      ...(sha256 !== undefined && { sha256 }),
    };
    return directSource(nameOf(file), file.remote, facts, this.world, this.controller.signal);
  }
}

/** Asked for to learn a file's length. */
const PROBE_BYTES = 1;

/** Runs a load, and once more from nothing if the files changed while they were read or came damaged. */
export async function onceMoreIfChanged<T>(load: () => Promise<T>): Promise<T> {
  for (let restarts = 0; ; restarts++) {
    try {
      return await load();
    } catch (error) {
      if (restarts === MAX_RESTARTS || !mayRestart(error)) throw error;
    }
  }
}

/** Downloads that start again from nothing. */
const MAX_RESTARTS = 1;

function nameOf(file: RemoteFile): string {
  return baseName(file.file);
}

/** Whether what is kept is what the Hub's listing speaks of; other servers are asked when bytes are. */
function agrees(kept: KeptFile, file: RemoteFile): boolean {
  if (file.sizeBytes !== undefined && file.sizeBytes !== kept.sizeBytes) return false;
  const hash = kept.sha256 ?? kept.digest;
  if (file.sha256 !== undefined && hash !== undefined) return file.sha256 === hash;
  return file.commit === kept.commit;
}

/** Some servers send small text files compressed or in chunks, and so without their length: they are read whole. */
async function wholeOfUnknownLength(
  file: RemoteFile,
  first: Waiting,
  world: DownloadWorld,
): Promise<Uint8Array | undefined> {
  if (first.answer.totalBytes !== undefined) return undefined;
  if (!first.answer.isWhole) throw lengthUnknown(file);
  return wholeOf(file, first, world);
}

function lengthUnknown({ remote: { url } }: RemoteFile): TidepoolError {
  return new TidepoolError("source", `${url} does not tell the file's length`, { url });
}

/** A file that came although a range was asked for. @throws TidepoolError if it is large, or was cut */
async function wholeOf(file: RemoteFile, { answer, controller }: Waiting, world: DownloadWorld) {
  const { url } = file.remote;
  const { totalBytes } = answer;
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  const reader = (answer.body as ReadableStream<Uint8Array<ArrayBuffer>>).getReader();
  let length = totalBytes ?? 0;
  try {
    for (let at = 0; ;) {
      if (length > RANGELESS_BYTES) throw tooLarge(url, totalBytes);
      const { done, value } = await untilStalled(world, controller, reader.read());
      if (done && totalBytes !== undefined && at !== totalBytes) throw cut(at, answer);
      if (done) return new Uint8Array(await new Blob(chunks).arrayBuffer());
      chunks.push(value);
      at += value.length;
      length = Math.max(length, at);
    }
  } catch (error) {
    throw asSourceError(url, error);
  } finally {
    reader.cancel().catch(() => undefined); // not waited for: an aborted body may never say
  }
}

function tooLarge(url: string, totalBytes: number | undefined): TidepoolError {
  const what = totalBytes === undefined ? "a file of unknown length" : `all of its ${totalBytes} bytes`;
  const text = `${url} answered a range request with ${what}: a server for models must support ranges; without them at most ${RANGELESS_BYTES} bytes are read`;
  return new TidepoolError("source", text, { url });
}

/** The first note of a download. @throws TidepoolError where listing and server disagree about the length */
function aboutOf(
  { name: model, lockName }: RemoteModel,
  file: RemoteFile,
  answer: RangeAnswer,
  readBytes: number | undefined,
): KeptFile {
  const { url } = file.remote;
  const sizeBytes = readBytes ?? (answer.totalBytes as number);
  if (file.sizeBytes !== undefined && file.sizeBytes !== sizeBytes) {
    const text = `${url} has ${sizeBytes} bytes, and ${file.sizeBytes} by the Hub's listing`;
    throw new TidepoolError("source", text, { url });
  }
  const sha256 = file.sha256 ?? answer.sha256;
  return {
    ...{
      kind: "file",
      model,
      lockName,
      file: file.file,
      url,
      sizeBytes,
      have: [],
      isComplete: false,
      atMs: Date.now(),
    },
    ...(file.commit !== undefined && { commit: file.commit }),
    ...(answer.validator !== undefined && { validator: answer.validator }),
    ...(sha256 !== undefined && { sha256 }),
  };
}
