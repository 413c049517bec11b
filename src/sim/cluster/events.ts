/** Simulated time: what is to happen when. Of two events at the same time the one that was planned first comes first. */
interface Event {
  atMs: number;
  order: number;
  act: () => void;
}

export class EventQueue {
  nowMs = 0;
  private readonly heap: Event[] = [];
  private planned = 0;

  /** When the next event comes; Infinity if there is none. */
  get nextMs(): number {
    return this.heap[0]?.atMs ?? Infinity;
  }

  at(atMs: number, act: () => void): void {
    const { heap } = this;
    const event = { atMs, order: this.planned++, act };
    let place = heap.length;
    heap.push(event);
    while (place > 0) {
      const up = (place - 1) >> 1;
      if (!isBefore(event, heap[up]!)) break;
      heap[place] = heap[up]!;
      place = up;
    }
    heap[place] = event;
  }

  /** Lets the next event happen; false if there is none. */
  step(): boolean {
    const { heap } = this;
    const first = heap[0];
    if (first === undefined) return false;
    const last = heap.pop()!;
    if (heap.length > 0) this.sink(last);
    this.nowMs = Math.max(this.nowMs, first.atMs);
    first.act();
    return true;
  }

  private sink(event: Event): void {
    const { heap } = this;
    let place = 0;
    for (;;) {
      let down = 2 * place + 1;
      if (down + 1 < heap.length && isBefore(heap[down + 1]!, heap[down]!)) down++;
      if (down >= heap.length || !isBefore(heap[down]!, event)) break;
      heap[place] = heap[down]!;
      place = down;
    }
    heap[place] = event;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
