/**
 * The owner's side of a shared engine: gives what its guests ask ids of its own, and what the engine says back to whom it is for.
 * Pure: it holds no engine, channel or lock; member.ts hands them in. Its own page is a guest like the others.
 */
import { TidepoolError, toWire } from "../../errors.ts";
import type { Ask } from "../local.ts";
import type { StepOutput } from "../../wire/protocol.ts";
import type { Say } from "./messages.ts";

/** Requests and calls of one guest that are under way, at most. */
const MAX_ASKS = 2048;

export interface OwnerHooks {
  /** Asks the engine, in the owner's ids. */
  ask(ask: Ask): void;
  /** To one guest, in its ids. */
  tell(guest: string, say: Say, transfer?: ArrayBuffer[]): void;
}

interface Guest {
  /** Its ids -> ours. */
  ids: Map<number, number>;
  isWatching: boolean;
}

interface Asked {
  guest: string;
  /** The guest's. */
  id: number;
  /** A request, or a call that can be aborted. */
  canEnd: boolean;
}

export class ShareOwner {
  private readonly hooks: OwnerHooks;
  private readonly guests = new Map<string, Guest>();
  /** By our ids. */
  private readonly asked = new Map<number, Asked>();
  private nextId = 1;

  constructor(hooks: OwnerHooks) {
    this.hooks = hooks;
  }

  get guestIds(): string[] {
    return [...this.guests.keys()];
  }

  has(guest: string): boolean {
    return this.guests.has(guest);
  }

  add(guest: string): void {
    this.guests.set(guest, { ids: new Map(), isWatching: false });
  }

  /** Ends what it asked. */
  remove(name: string): void {
    const guest = this.guests.get(name);
    if (!guest) return;
    this.guests.delete(name);
    for (const id of guest.ids.values()) {
      const canEnd = this.asked.get(id)?.canEnd;
      this.asked.delete(id);
      if (canEnd) this.hooks.ask({ type: "abort", id });
    }
    if (guest.isWatching && !this.isWatched()) this.watchEnds();
  }

  /** Forgets a guest that will ask another owner; what it asked runs into nothing. */
  drop(name: string): void {
    this.guests.delete(name);
  }

  /** A guest asks; of one that is not here nothing is taken. */
  ask(name: string, ask: Ask): void {
    const guest = this.guests.get(name);
    if (!guest) return;
    if (ask.type === "abort") this.abort(guest, ask.id);
    else if (guest.ids.has(ask.id)) return;
    else if (guest.ids.size >= MAX_ASKS) {
      const error = new TidepoolError("rejected", `${MAX_ASKS} requests and calls of one tab are under way`);
      this.hooks.tell(name, { type: "refused", id: ask.id, error: toWire(error) });
    } else if (this.isListening(guest, ask)) {
      const { id } = ask;
      this.hooks.tell(name, { type: "answer", id, value: undefined });
    } else this.pass(name, guest, ask);
  }

  /** The engine says something, in our ids. */
  say(say: Say, transfer?: ArrayBuffer[]): void {
    switch (say.type) {
      case "step":
        return this.step(say.outputs);
      case "finished":
      case "refused":
      case "answer":
        return this.end(say, transfer);
      case "cacheEvents":
        for (const [name, { isWatching }] of this.guests) if (isWatching) this.hooks.tell(name, say);
        return;
      default:
        for (const name of this.guestIds) this.hooks.tell(name, say);
    }
  }

  private pass(name: string, guest: Guest, ask: Exclude<Ask, { type: "abort" }>): void {
    const id = this.nextId++;
    guest.ids.set(ask.id, id);
    this.asked.set(id, { guest: name, id: ask.id, canEnd: canEnd(ask) });
    try {
      this.hooks.ask({ ...ask, id });
    } catch (error) {
      this.end({ type: "refused", id, error: toWire(error) }, undefined);
    }
  }

  private abort(guest: Guest, theirs: number): void {
    const id = guest.ids.get(theirs);
    if (id !== undefined) this.hooks.ask({ type: "abort", id });
  }

  /** Notes who listens to the cache. Whether there is nothing to tell the engine: others listen on. */
  private isListening(guest: Guest, ask: Ask): boolean {
    if (ask.type !== "call" || ask.call.method !== "cacheWatch") return false;
    const before = this.isWatched();
    guest.isWatching = ask.call.on;
    return before === this.isWatched();
  }

  private isWatched(): boolean {
    return [...this.guests.values()].some(({ isWatching }) => isWatching);
  }

  /** Its answer is for nobody. */
  private watchEnds(): void {
    this.hooks.ask({ type: "call", id: this.nextId++, call: { method: "cacheWatch", on: false } });
  }

  private step(outputs: readonly StepOutput[]): void {
    const each = new Map<string, StepOutput[]>();
    for (const output of outputs) {
      const asked = this.asked.get(output.id);
      if (!asked) continue;
      const list = each.get(asked.guest) ?? [];
      each.set(asked.guest, list);
      list.push({ ...output, id: asked.id });
    }
    for (const [name, list] of each)
      if (this.has(name)) this.hooks.tell(name, { type: "step", outputs: list });
  }

  private end(say: Extract<Say, { id: number }>, transfer: ArrayBuffer[] | undefined): void {
    const asked = this.asked.get(say.id);
    if (!asked) return;
    this.asked.delete(say.id);
    const guest = this.guests.get(asked.guest);
    guest?.ids.delete(asked.id);
    if (guest) this.hooks.tell(asked.guest, { ...say, id: asked.id }, transfer);
  }
}

function canEnd(ask: Exclude<Ask, { type: "abort" }>): boolean {
  return ask.type === "submit" || ask.call.method === "embed";
}
