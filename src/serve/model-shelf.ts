/**
 * Several models by name: each is loaded when it is first asked for and stays until its memory is needed for another. A model that
 * answers requests is never ended; what it has cached on disk outlives it. It knows no HTTP.
 */
import { TidepoolError } from "../errors.ts";
import type { Engine } from "../engine/engine.ts";
import { noModel, type Lease, type ModelSource } from "../openai/source.ts";

/** When there may be room, if all models that are loaded answer requests. */
const RETRY_AFTER_MS = 5000;

/** A model that may be loaded. */
export interface ShelfModel {
  name: string;
  load(): Promise<Engine>;
}

interface Place extends ShelfModel {
  engine: Engine | undefined;
  /** Requests that hold it or wait for it. */
  users: number;
  /** Counts up with each use: the least is evicted first. */
  lastUse: number;
}

export class ModelShelf implements ModelSource {
  private readonly places: readonly Place[];
  private readonly memoryBytes: number;
  private uses = 0;
  /** One model is loaded at a time, so that each finds the memory that it counted with. */
  private loading: Promise<unknown> = Promise.resolve();

  /** @param memoryBytes what loaded models may take on the GPU together; Infinity: until one no longer fits */
  constructor(models: readonly ShelfModel[], memoryBytes = Infinity) {
    this.places = models.map((model) => ({ ...model, engine: undefined, users: 0, lastUse: 0 }));
    this.memoryBytes = memoryBytes;
  }

  get names(): string[] {
    return this.places.map(({ name }) => name);
  }

  /** Those that are loaded. */
  get loaded(): { name: string; engine: Engine }[] {
    return this.places.flatMap(({ name, engine }) => (engine ? [{ name, engine }] : []));
  }

  /** @throws TidepoolError `not_found`, `rejected` if no model can make room, or why it does not load */
  async open(asked?: string): Promise<Lease> {
    const place = this.places.find(({ name }) => asked === undefined || name === asked);
    if (!place) throw noModel(asked ?? "", this.names);
    place.users++;
    place.lastUse = ++this.uses;
    try {
      const speaker = await this.engineOf(place);
      return { name: place.name, speaker, release: () => void place.users-- };
    } catch (error) {
      place.users--;
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.loading;
    await Promise.all(this.places.map((place) => end(place)));
  }

  private async engineOf(place: Place): Promise<Engine> {
    const { engine } = place;
    if (engine && isUsable(engine)) return engine;
    const turn = this.loading.then(() => this.load(place));
    this.loading = turn.catch(() => {}); // told to whoever asked
    return turn;
  }

  private async load(place: Place): Promise<Engine> {
    if (place.engine && isUsable(place.engine)) return place.engine; // loaded while this waited
    await end(place); // one that has failed
    for (;;) {
      try {
        place.engine = await place.load();
        break;
      } catch (error) {
        const lacksRoom = error instanceof TidepoolError && error.code === "out_of_memory";
        if (!lacksRoom || this.loaded.length === 0) throw error;
        await this.evict(place);
      }
    }
    while (this.bytes > this.memoryBytes && this.loaded.length > 1) await this.evict(place);
    return place.engine;
  }

  private get bytes(): number {
    return this.loaded.reduce((sum, { engine }) => sum + bytesOf(engine), 0);
  }

  /** Ends the model that was used least recently. @throws TidepoolError `rejected` if all others answer requests */
  private async evict(wanted: Place): Promise<void> {
    const idle = this.places.filter((place) => place.engine && place.users === 0 && place !== wanted);
    const [oldest] = idle.sort((a, b) => a.lastUse - b.lastUse);
    if (oldest) return end(oldest);
    await end(wanted);
    const message = `there is no room for ${wanted.name} while the other models answer requests`;
    throw new TidepoolError("rejected", message, { retryAfterMs: RETRY_AFTER_MS });
  }
}

function isUsable({ state }: Engine): boolean {
  return state === "ready" || state === "recovering";
}

async function end(place: Place): Promise<void> {
  const { engine } = place;
  place.engine = undefined;
  await engine?.close();
}

function bytesOf({ info: { memory } }: Engine): number {
  return memory.weightBytes + memory.kvPoolBytes + memory.statePoolBytes + memory.workspaceBytes;
}
