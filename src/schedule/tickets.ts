/**
 * Who may see what a step writes, and when what it uses is free again, said by tickets: each planned step has one. Steps of
 * one queue run in the order of their tickets; those of different queues run in any order. Pure: a queue is a number here,
 * and that a step has run is told.
 *
 *     planned --> good    it ran, and so did all steps before it in its queue
 *            '--> void    nothing that it writes can be trusted
 *
 * What a step writes may be seen by later steps of its own queue at once, because they run behind it; by other queues and
 * by the lower tiers when its ticket is good. What a step uses may be overwritten by later steps of its own queue at once,
 * and by others when it has run.
 */
import { assert } from "../base.ts";

export interface Ticket {
  readonly queue: number;
  /** Rises by one from step to step of a queue. */
  readonly step: number;
  readonly status: "planned" | "good" | "void";
  /** Whether it has run, or never will. */
  readonly isOver: boolean;
}

type Open = { -readonly [Field in keyof Ticket]: Ticket[Field] };

/** Told whether a step is good, once that is known. */
type Waiter = (isGood: boolean) => void;

export class Tickets {
  /** Of each queue the tickets of steps that have not run, oldest first. */
  private readonly open: Open[][];
  private readonly issued: number[];
  private readonly waiters = new Map<Ticket, Waiter[]>();

  constructor(queues = 1) {
    assert(Number.isInteger(queues) && queues > 0, `${queues} queues, expected 1 or more`);
    this.open = Array.from({ length: queues }, () => []);
    this.issued = this.open.map(() => 0);
  }

  get queueCount(): number {
    return this.open.length;
  }

  /** The ticket of the next step of a queue. */
  issue(queue: number): Ticket {
    const open = this.open[queue];
    assert(open, `no queue ${queue} of ${this.queueCount}`);
    const step = this.issued[queue] as number;
    this.issued[queue] = step + 1;
    const ticket: Open = { queue, step, status: "planned", isOver: false };
    open.push(ticket);
    return ticket;
  }

  /** The last step of a queue that has not run; undefined if all have. */
  last(queue: number): Ticket | undefined {
    return this.open[queue]?.at(-1);
  }

  /** The oldest step of its queue has run, and is good unless it was void before. */
  ran(ticket: Ticket): void {
    const open = this.open[ticket.queue] ?? [];
    const oldest = open.shift();
    assert(
      oldest === ticket,
      `step ${ticket.step} of queue ${ticket.queue} has run before step ${oldest?.step ?? "none"}`,
    );
    oldest.isOver = true;
    if (oldest.status === "planned") this.decide(oldest, "good");
  }

  /**
   * None of the steps that are not good can be trusted, and none will be. With one queue they are over: whatever is planned
   * from now on runs behind them. With several, `ran` is still to be told of each, unless the queues themselves are gone.
   */
  voidAll(areOver = this.queueCount === 1): void {
    for (const open of this.open) {
      for (const ticket of open) if (ticket.status === "planned") this.decide(ticket, "void");
      if (areOver) for (const ticket of open.splice(0)) ticket.isOver = true;
    }
  }

  /** Calls back with whether a step is good: at once if that is known. */
  whenDecided(ticket: Ticket, waiter: Waiter): void {
    if (ticket.status !== "planned") waiter(ticket.status === "good");
    else this.waiters.set(ticket, [...(this.waiters.get(ticket) ?? []), waiter]);
  }

  private decide(ticket: Open, status: "good" | "void"): void {
    ticket.status = status;
    const waiters = this.waiters.get(ticket) ?? [];
    this.waiters.delete(ticket);
    for (const waiter of waiters) waiter(status === "good");
  }
}

/** Whether steps of `queue` that are planned from now on may read what the ticket's step writes. */
export function maySee(ticket: Ticket | undefined, queue: number): boolean {
  if (!ticket || ticket.status === "good") return true;
  return ticket.status === "planned" && ticket.queue === queue;
}

/**
 * The tickets of slots, where there are several queues: which step wrote each last, and which step of each queue used it
 * last. With one queue nobody needs them: its order says it all.
 */
export class SlotTickets {
  private readonly writers = new Map<number, Ticket>();
  private readonly users = new Map<number, Ticket[]>();

  /** The ticket's step, or one before it in its queue, writes these slots. */
  wrote(slots: Iterable<number>, ticket: Ticket): void {
    for (const slot of slots) this.writers.set(slot, ticket);
  }

  /** The ticket's step is the last of its queue that uses these slots so far. */
  used(slots: Iterable<number>, ticket: Ticket): void {
    for (const slot of slots) {
      const others = (this.users.get(slot) ?? []).filter(
        ({ queue, isOver }) => queue !== ticket.queue && !isOver,
      );
      this.users.set(slot, [...others, ticket]);
    }
  }

  /** Whether steps of `queue` may read a slot. */
  isVisible(slot: number, queue: number): boolean {
    const writer = this.writers.get(slot);
    if (writer?.status === "good") this.writers.delete(slot); // seen by all from now on
    return maySee(writer, queue);
  }

  /** Whether all steps that use a slot have run, so that anyone may overwrite it. */
  isFree(slot: number): boolean {
    const users = this.users.get(slot);
    if (users?.some(({ isOver }) => !isOver)) return false;
    this.users.delete(slot);
    return true;
  }

  /** What was written is gone. */
  clear(): void {
    this.writers.clear();
  }
}
