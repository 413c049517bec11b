/**
 * All conversations: the list, and each one's way to the browser's database. What is on the screen is the truth; a write
 * that fails keeps the conversation here, says why, and can be tried again. It knows nothing of the DOM.
 */
import { background } from "../../page/background.ts";
import { newConversation, titleOf, type Conversation } from "./conversation.ts";
import {
  ChangedElsewhere,
  openDatabase,
  readConversation,
  readHeads,
  removeConversation,
  writeConversation,
  type Head,
} from "./conversation-db.ts";

const CHANNEL = "tidepool-conversations";

/** What another tab says. */
interface News {
  /** The conversation that was written or removed. */
  id: string;
}

export interface ListState {
  /** The newest first. */
  heads: readonly Head[];
  /** Why the last write or read failed. */
  problem?: Error;
  /** Conversations that are on this page only. */
  unsaved: ReadonlySet<string>;
}

export class Conversations {
  private readonly heads = new Map<string, Head>();
  private readonly unsaved = new Map<string, Conversation>();
  /** Of what was read or written here: the list may know of newer ones. */
  private readonly revisions = new Map<string, number>();
  private readonly watchers: ((state: ListState) => void)[] = [];
  private readonly channel = new BroadcastChannel(CHANNEL);
  private problem: Error | undefined;
  private database: Promise<IDBDatabase> | undefined;
  /** Writes happen one after the other; more than one waiting for the same conversation is one. */
  private writing: Promise<void> = Promise.resolve();
  private readonly waiting = new Set<string>();
  /** Told when another tab has changed a conversation. */
  onElsewhere: (id: string) => Promise<void> = () => Promise.resolve();

  constructor() {
    this.channel.onmessage = ({ data }: MessageEvent<News>) =>
      background(this.attempt(() => this.hear(data)));
  }

  /** Calls now and after each change. */
  watch(watcher: (state: ListState) => void): void {
    this.watchers.push(watcher);
    watcher(this.state());
  }

  private state(): ListState {
    const heads = [...this.heads.values()].sort((a, b) => b.updatedAtMs - a.updatedAtMs);
    const unsaved = new Set(this.unsaved.keys());
    return { heads, unsaved, ...(this.problem && { problem: this.problem }) };
  }

  private tell(): void {
    const state = this.state();
    for (const watcher of this.watchers) watcher(state);
  }

  /** Reads the list. A failure is reported to the watchers, and the page continues without it. */
  async load(): Promise<void> {
    await this.attempt(async () => {
      const found = await readHeads(await this.open());
      const kept = [...this.unsaved.keys()]
        .map((id) => this.heads.get(id))
        .filter((head) => head !== undefined);
      this.heads.clear();
      for (const head of [...found, ...kept]) this.heads.set(head.id, head);
    });
    this.tell();
  }

  /** One conversation, unless there is none of that id or it cannot be read. */
  async read(id: string): Promise<Conversation | undefined> {
    const here = this.unsaved.get(id);
    if (here) return here;
    let found: Conversation | undefined;
    await this.attempt(async () => {
      const read = await readConversation(await this.open(), id);
      if (!read) return;
      found = read.conversation;
      this.revisions.set(id, read.revision);
    });
    this.tell();
    return found;
  }

  /** Keeps a conversation as it is when its turn to be written comes; never rejects. */
  save(conversation: Conversation): Promise<void> {
    const { id } = conversation;
    conversation.title = titleOf(conversation);
    this.unsaved.set(id, conversation);
    const { title, updatedAtMs } = conversation;
    this.heads.set(id, { id, title, updatedAtMs, revision: this.revisions.get(id) ?? 0 });
    this.tell();
    if (this.waiting.has(id)) return this.writing;
    this.waiting.add(id);
    this.writing = this.writing.then(() => this.write(conversation));
    return this.writing;
  }

  /** Tries once more to write what could not be written. */
  async retry(): Promise<void> {
    for (const conversation of [...this.unsaved.values()]) await this.save(conversation);
  }

  async remove(id: string): Promise<void> {
    this.heads.delete(id);
    this.unsaved.delete(id);
    this.tell();
    await this.writing;
    await this.attempt(async () => removeConversation(await this.open(), id));
    this.channel.postMessage({ id } satisfies News);
  }

  private async write(conversation: Conversation): Promise<void> {
    const { id } = conversation;
    this.waiting.delete(id);
    if (this.unsaved.get(id) !== conversation) return; // removed meanwhile
    await this.attempt(async () => {
      const head = await this.written(await this.open(), conversation);
      this.revisions.set(head.id, head.revision);
      if (this.heads.has(head.id)) this.heads.set(head.id, head);
      if (!this.waiting.has(id)) this.unsaved.delete(id);
      this.channel.postMessage({ id: head.id } satisfies News);
    });
    this.tell();
  }

  /** Where another tab has written the same conversation, this one becomes a copy, and both are kept. */
  private async written(database: IDBDatabase, conversation: Conversation): Promise<Head> {
    const revision = this.revisions.get(conversation.id) ?? 0;
    try {
      return await writeConversation(database, conversation, revision);
    } catch (error) {
      if (!(error instanceof ChangedElsewhere)) throw error;
      const { id } = conversation;
      this.heads.delete(id);
      this.unsaved.delete(id);
      conversation.id = newConversation(conversation.updatedAtMs).id;
      conversation.title = `${conversation.title} (copy)`;
      conversation.isNamed = true;
      const head = await writeConversation(database, conversation, 0);
      this.heads.set(head.id, head);
      await this.hear({ id });
      return head;
    }
  }

  /** Another tab's change comes into the list, unless there is something newer here. */
  private async hear({ id }: News): Promise<void> {
    if (this.unsaved.has(id)) return;
    const head = (await readHeads(await this.open())).find((one) => one.id === id);
    if (head) this.heads.set(id, head);
    else this.heads.delete(id);
    this.tell();
    await this.onElsewhere(id);
  }

  private open(): Promise<IDBDatabase> {
    this.database ??= openDatabase();
    return this.database;
  }

  /** Does something with the database; a failure is remembered as the problem, a success ends it. */
  private async attempt(work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
      if (this.unsaved.size === 0) this.problem = undefined;
    } catch (error) {
      this.problem = error instanceof Error ? error : new Error(String(error));
      this.database = undefined; // it may have been closed under us: the next attempt opens it again
    }
  }
}
