/**
 * One tab's part in an engine that tabs share. Who holds the lock of the key is the owner: it loads the model and answers all;
 * the others, its guests, load nothing and have no GPU device. When the owner ends, however it ends, the lock goes to the guest
 * that has waited longest; it loads the model, and all ask it again, with the tokens that they have.
 *
 *     page A -- worker A (owner: engine, ShareOwner, ShareClient)
 *                  |  channel of the key
 *     page B -- worker B (guest: ShareClient, waits for the lock)
 *
 * Every member holds a lock of its own name as long as it lives. The owner waits for its guests' locks: what it is given
 * belonged to a guest that is gone. No message and no clock tells of a death. An owner that lives and is silent, such as a tab that
 * the system has suspended, has the lock taken from it; when it wakes it learns of that and is a guest.
 *
 * Why no SharedWorker: in Chromium 156 one has WebGPU, Web Locks and BroadcastChannel, but neither `Worker` nor OPFS's synchronous
 * handles (tried). Without the first a hostile tokenizer cannot be stopped, without the second there is no fast disk tier. A tab's own worker has
 * all of them, and where browsers differ, sharing does not.
 *
 * It knows channel and locks by what it is handed (platform.ts makes them), and nothing of what is asked and said.
 */
import { background, type Timer } from "../../base.ts";
import { TidepoolError, toWire } from "../../errors.ts";
import type { Ask } from "../local.ts";
import type { EngineInfo, LoadProgress, Notice } from "../../wire/protocol.ts";
import type { Post } from "../session.ts";
import { ShareClient } from "./guest.ts";
import {
  EVERYONE,
  MAX_GUESTS,
  readShareMessage,
  type Say,
  type ShareBody,
  type ShareMessage,
} from "./messages.ts";
import { ShareOwner } from "./owner.ts";

/** How often a guest that waits for something asks whether the owner lives. */
const PING_EVERY_MS = 5000;

/** Questions in a row without any word of an owner, after which it is given up. Counted, so that a machine's sleep is not an owner's. */
const MAX_SILENT_PINGS = 6;

/** How often a member takes the lock from a silent owner without hearing of anybody: then tabs cannot hear each other. */
const MAX_TAKEOVERS = 2;

/** Notices that a later guest is told, the newest. */
const MAX_NOTICES = 32;

/** Exclusive locks among tabs. */
export interface ShareLocks {
  /** Resolves, when it is ours, to what gives it back. Rejects when `signal` fires before. Those who wait get it in their order.
   * @param onLost called when another steals it */
  take(name: string, signal: AbortSignal, onLost?: () => void): Promise<() => void>;
  /** Resolves to the same at once: whoever had it has it no more. */
  steal(name: string, onLost: () => void): Promise<() => void>;
}

/** A channel to all other members; what one sends arrives in its order. */
export interface ShareChannel {
  post(message: ShareMessage): void;
  listen(onMessage: (data: unknown) => void): void;
  close(): void;
}

/** An engine that can be loaded here. */
export interface SharedEngine {
  load(): Promise<EngineInfo>;
  receive(ask: Ask): void;
  close(): Promise<void>;
}

export interface ShareSetting {
  key: string;
  /** Of this member, unique. */
  id: string;
  locks: ShareLocks;
  channel: ShareChannel;
  timer: Timer;
  /** Milliseconds since 1970. */
  nowMs(): number;
  toPage: Post;
  makeEngine(post: Post): SharedEngine;
}

/** The owner as far as a member knows; of two the later one is. */
interface Known {
  id: string;
  since: number;
}

/** Asks for the owner's lock. */
type Claim = (name: string, signal: AbortSignal, onLost: () => void) => Promise<() => void>;

/** What a member has that owns. */
interface Ownership {
  owner: ShareOwner;
  engine: SharedEngine;
  /** Gives the owner's lock back. */
  release: () => void;
  /** Once loaded. */
  info: EngineInfo | undefined;
  progress: LoadProgress | undefined;
  notices: Notice[];
  /** Ends the waiting for each guest's lock. */
  watches: Map<string, AbortController>;
}

export class Share {
  private readonly setting: ShareSetting;
  private readonly client: ShareClient;
  private readonly stop = new AbortController();
  /** Ends the waiting for the owner's lock. */
  private turn = new AbortController();
  private takeovers = 0;
  private known: Known | undefined;
  /** When the latest of all owners became that. */
  private latest = 0;
  private ownership: Ownership | undefined;
  private silentPings = 0;
  private callOffPing: () => void = () => {};
  /** Gives this member's own lock back. */
  private release: () => void = () => {};
  private ending: Promise<void> | undefined;

  constructor(setting: ShareSetting) {
    this.setting = setting;
    this.client = new ShareClient(setting.toPage);
  }

  /** Looks for the owner, and waits to become it. What comes of it is posted to the page. */
  async start(): Promise<void> {
    const { key, id, locks, channel } = this.setting;
    channel.listen((data) => this.receive(readShareMessage(data)));
    const { signal } = this.stop;
    const release = await granted(locks.take(memberLock(key, id), signal), signal);
    if (!release) return;
    this.release = release;
    this.post(EVERYONE, { kind: "join" });
    this.armPing();
    background(this.waitForTurn(), "ownership of the shared engine");
  }

  fromPage(ask: Ask): void {
    if (!this.ending) this.client.fromPage(ask);
  }

  /** Leaves: requests of this page end as aborted, those of others go on with another owner. */
  close(): Promise<void> {
    return (this.ending ??= this.leave());
  }

  /** Nothing works any more: tells the page, and the guests where this is their owner. */
  fail(error: unknown): void {
    if (this.ending) return;
    const say: Say = { type: "failed", error: toWire(error) };
    if (this.ownership) this.ownership.owner.say(say);
    else this.client.say(say);
    background(this.close(), "end of a failed engine");
  }

  private async leave(): Promise<void> {
    this.stop.abort();
    this.turn.abort();
    this.callOffPing();
    if (this.ownership) await this.resign(this.ownership);
    else this.post(EVERYONE, { kind: "leave" });
    this.client.end();
    this.ownership?.release();
    this.release();
    this.setting.channel.close();
  }

  /** The guests wait until the engine is closed, so that the GPU has room for the next one. */
  private async resign({ owner, engine, watches }: Ownership): Promise<void> {
    this.post(EVERYONE, { kind: "leaving" });
    for (const [guest, watch] of watches) {
      owner.drop(guest);
      watch.abort();
    }
    await engine.close();
  }

  private waitForTurn(): Promise<void> {
    const { locks } = this.setting;
    return this.contend((name, signal, onLost) => locks.take(name, signal, onLost));
  }

  /** The owner is silent: this member takes its place. */
  private steal(): Promise<void> {
    const { locks } = this.setting;
    this.turn.abort();
    return this.contend((name, _signal, onLost) => locks.steal(name, onLost));
  }

  private async contend(claim: Claim): Promise<void> {
    const turn = (this.turn = new AbortController());
    const onLost = (): void => {
      turn.abort();
      if (this.turn === turn) this.stepDown();
    };
    const release = await granted(claim(ownerLock(this.setting.key), turn.signal, onLost), turn.signal);
    if (!turn.signal.aborted && release)
      await this.own(release); // it may have been lost in between
    else release?.();
  }

  /** Another has taken the lock: what this page has under way goes on with that one, as for the other guests. */
  private stepDown(): void {
    const { ownership } = this;
    if (this.ending) return;
    this.ownership = undefined;
    if (ownership) {
      for (const watch of ownership.watches.values()) watch.abort();
      background(ownership.engine.close(), "end of an engine that another has taken the place of");
      ownership.release();
    }
    this.lookAround();
    background(this.waitForTurn(), "ownership of the shared engine");
  }

  private async own(release: () => void): Promise<void> {
    const { id, makeEngine, nowMs } = this.setting;
    const post: Post = (message, transfer) => this.engineSays(ownership, message as Say, transfer);
    const ownership: Ownership = this.makeOwnership(makeEngine(post), release);
    this.ownership = ownership;
    this.latest = Math.max(nowMs(), this.latest + 1);
    this.known = { id, since: this.latest };
    this.client.disconnect();
    ownership.owner.add(id);
    this.post(EVERYONE, { kind: "owner" });
    try {
      const info = await ownership.engine.load();
      if (!this.ending && this.ownership === ownership) this.loaded(ownership, info);
    } catch (error) {
      if (this.ownership === ownership) this.fail(error);
    }
  }

  private makeOwnership(engine: SharedEngine, release: () => void): Ownership {
    const { id } = this.setting;
    const owner = new ShareOwner({
      ask: (ask) => engine.receive(ask),
      tell: (guest, say, transfer) => {
        if (guest === id) this.client.say(say, transfer);
        else this.post(guest, { kind: "say", say });
      },
    });
    return { owner, engine, release, info: undefined, progress: undefined, notices: [], watches: new Map() };
  }

  private loaded(ownership: Ownership, info: EngineInfo): void {
    ownership.info = info;
    for (const guest of ownership.watches.keys()) this.post(guest, { kind: "ready", info });
    this.client.connect((ask) => ownership.owner.ask(this.setting.id, ask), info, "owner");
  }

  private engineSays(ownership: Ownership, say: Say, transfer: ArrayBuffer[] | undefined): void {
    if (this.ownership !== ownership) return;
    if (say.type === "progress") ownership.progress = say.progress;
    else if (say.type === "info") ownership.info = say.info;
    else if (say.type === "notice")
      ownership.notices = [...ownership.notices, say.notice].slice(-MAX_NOTICES);
    ownership.owner.say(say, transfer);
    // Told to all; whoever loads it next begins anew.
    if (say.type === "failed" && !this.ending) background(this.close(), "end of a failed engine");
  }

  private receive(message: ShareMessage | undefined): void {
    const { id } = this.setting;
    if (!message || message.from === id || this.ending) return;
    this.takeovers = 0;
    if (message.to !== id && message.to !== EVERYONE) return;
    if (this.ownership) this.fromGuest(this.ownership, message);
    else this.fromOwner(message);
  }

  private fromGuest(ownership: Ownership, message: ShareMessage): void {
    const { from: guest } = message;
    switch (message.kind) {
      case "join":
        return this.join(ownership, guest);
      case "ask":
        // One of a former time as the owner is asked again.
        return message.ownedSince === this.known?.since ? ownership.owner.ask(guest, message.ask) : undefined;
      case "ping":
        if (ownership.owner.has(guest)) this.post(guest, { kind: "pong" });
        return;
      case "leave":
        ownership.watches.get(guest)?.abort();
        return this.gone(ownership, guest);
      case "owner": // it took the lock, and is heard before the loss is
        if (message.ownedSince <= (this.known as Known).since) return;
        this.stepDown();
        return this.follow({ id: guest, since: message.ownedSince });
      default: // what owners say: one that was
        return;
    }
  }

  private join(ownership: Ownership, guest: string): void {
    const { owner, watches, info } = ownership;
    const isNew = !owner.has(guest);
    if (isNew && watches.size >= MAX_GUESTS) return this.turnAway(guest);
    owner.remove(guest); // it has looked around since, hears nothing until it is welcome, and asks everything again
    owner.add(guest);
    if (isNew) this.watch(ownership, guest);
    this.post(guest, { kind: "welcome" });
    if (isNew) this.tellPast(ownership, guest);
    if (info) this.post(guest, { kind: "ready", info });
  }

  private turnAway(guest: string): void {
    const message = `the shared engine serves ${MAX_GUESTS} tabs beside its own already: close one, or load without \`share\``;
    this.post(guest, { kind: "welcome" });
    this.tell(guest, { type: "failed", error: toWire(new TidepoolError("rejected", message)) });
  }

  private tellPast({ progress, notices, info }: Ownership, guest: string): void {
    if (progress && !info) this.tell(guest, { type: "progress", progress });
    for (const notice of notices) this.tell(guest, { type: "notice", notice });
  }

  private tell(guest: string, say: Say): void {
    this.post(guest, { kind: "say", say });
  }

  /** Waits for the guest's lock, which it holds while it lives. */
  private watch(ownership: Ownership, guest: string): void {
    const { key, locks } = this.setting;
    const watch = new AbortController();
    ownership.watches.set(guest, watch);
    const free = (release: () => void): void => {
      release();
      this.gone(ownership, guest);
    };
    const calledOff = (error: unknown): void => {
      if (!watch.signal.aborted) throw error;
    };
    background(locks.take(memberLock(key, guest), watch.signal).then(free, calledOff), "watch of a guest");
  }

  private gone(ownership: Ownership, guest: string): void {
    ownership.watches.delete(guest);
    if (!this.ending) ownership.owner.remove(guest);
  }

  private fromOwner(message: ShareMessage): void {
    const { from: id, ownedSince: since } = message;
    if (message.kind === "owner") return this.follow({ id, since });
    if (message.kind === "welcome") this.welcome({ id, since });
    if (id !== this.known?.id || since !== this.known.since) return this.deny(message);
    this.silentPings = 0;
    switch (message.kind) {
      case "ready":
        if (!this.client.isConnected) this.client.connect((ask) => this.ask(ask), message.info, "guest");
        return;
      case "say":
        return this.ownerSays(message.say);
      case "leaving":
        return this.lookAround();
      default: // what guests say
        return;
    }
  }

  /** Whoever takes this member for the owner, as it was until just now, looks for another. */
  private deny({ kind, from, to, ownedSince }: ShareMessage): void {
    const isAsked = kind === "join" || kind === "ask" || kind === "ping";
    if (isAsked && to === this.setting.id) this.post(from, { kind: "leaving" }, ownedSince);
  }

  private lookAround(): void {
    this.known = undefined;
    this.client.disconnect();
    this.post(EVERYONE, { kind: "join" });
  }

  private welcome(owner: Known): void {
    if (this.known && this.known.since >= owner.since) return;
    this.known = owner;
    this.latest = Math.max(this.latest, owner.since);
    this.silentPings = 0;
    this.client.disconnect();
  }

  /** Another owner: late words of the one before are passed over from now on. */
  private follow(owner: Known): void {
    if (this.known && this.known.since >= owner.since) return;
    this.welcome(owner);
    this.post(owner.id, { kind: "join" });
  }

  private ownerSays(say: Say): void {
    this.client.say(say);
    if (say.type === "failed") background(this.close(), "end of a failed engine");
  }

  private ask(ask: Ask): void {
    this.post((this.known as Known).id, { kind: "ask", ask });
  }

  private armPing(): void {
    this.callOffPing = this.setting.timer.after(PING_EVERY_MS, () => this.ping());
  }

  private ping(): void {
    this.armPing();
    const isWaiting = !this.ownership && (!this.client.isConnected || this.client.isBusy);
    if (!isWaiting) {
      this.silentPings = 0;
      return;
    }
    if (++this.silentPings > MAX_SILENT_PINGS) {
      this.silentPings = 0;
      if (this.takeovers++ < MAX_TAKEOVERS) background(this.steal(), "taking over from a silent owner");
      else this.fail(silentOwner());
      return;
    }
    if (this.known) this.post(this.known.id, { kind: "ping" });
    else this.post(EVERYONE, { kind: "join" });
  }

  private post(to: string, body: ShareBody, ownedSince = this.known?.since ?? 0): void {
    this.setting.channel.post({ ...body, from: this.setting.id, to, ownedSince });
  }
}

/** The release of a lock; nothing where `signal` came first. */
async function granted(lock: Promise<() => void>, signal: AbortSignal): Promise<(() => void) | undefined> {
  try {
    const release = await lock;
    if (!signal.aborted) return release;
    release();
  } catch (error) {
    if (!signal.aborted) throw error;
  }
  return undefined;
}

const ownerLock = (key: string): string => `tidepool-engine:${key}`;

const memberLock = (key: string, id: string): string => `tidepool-engine:${key}:${id}`;

function silentOwner(): TidepoolError {
  const seconds = (PING_EVERY_MS * MAX_SILENT_PINGS) / 1000;
  const message = `the tabs that share the engine do not hear each other: none has answered for ${seconds} s, ${MAX_TAKEOVERS + 1} times; load without \`share\``;
  return new TidepoolError("worker_died", message);
}
