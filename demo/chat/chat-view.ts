/**
 * The chat: the open conversation, its requests, and what is written next. Requests go on when another conversation is
 * opened. How conversations are kept, and how turns look, is elsewhere.
 */
import type { Engine, Generation } from "../../src/index.ts";
import { background } from "../page/background.ts";
import { Composer, type Draft } from "./composer.ts";
import { conversationFile, readConversationFile } from "./conversation/conversation-file.ts";
import {
  modelKey,
  newConversation,
  titleOf,
  type AttachedDocument,
  type Conversation,
  type Turn,
} from "./conversation/conversation.ts";
import { conversationList, type ListView } from "./conversation/conversation-list.ts";
import type { Conversations } from "./conversation/conversations.ts";
import { roomFor, type Room } from "./document-room.ts";
import { button, el, iconButton } from "../page/dom.ts";
import { Drawers } from "../page/drawers.ts";
import { errorText } from "../page/format.ts";
import type { Host, HostState } from "../page/model/host.ts";
import { hasTemplate, isOver, recordTurn, requestFor } from "./requests.ts";
import { saveFile } from "./save-file.ts";
import type { Sampling, Settings } from "./settings.ts";
import { turnView, type TurnView } from "./turn-view.ts";
import { welcomeView } from "./welcome.ts";

/** How near to its end, in CSS pixels, a conversation counts as read, and so follows what is added. */
const NEAR_END_PX = 64;

/** One request under way, or the loading that comes before it. */
interface Run {
  controller: AbortController;
  view?: TurnView;
}

export class ChatView {
  readonly element: HTMLElement;
  private readonly host: Host;
  private readonly settings: Settings;
  private readonly conversations: Conversations;
  private readonly log = el("div", { class: "log", role: "log", "aria-label": "Conversation", tabindex: 0 });
  private readonly title = el("h2", { class: "title" });
  private readonly problem = el("p", { class: "problem bar", role: "alert" });
  private readonly composer: Composer;
  private readonly list: ListView;
  private readonly welcome = welcomeView(
    (draft) => {
      this.composer.write(draft);
      background(this.submit());
    },
    (draft) => {
      this.composer.write(draft);
      this.composer.focus();
    },
  );
  private readonly drawers: Drawers;
  private readonly save = iconButton("out", "Export", () => this.download(), { class: "quiet" });
  private current = newConversation(Date.now());
  private views: TurnView[] = [];
  private readonly running = new Map<Conversation, Run>();
  /** What is written and not sent, by conversation. */
  private readonly drafts = new Map<string, Draft>();

  constructor(host: Host, conversations: Conversations, settings: Settings, side: HTMLElement) {
    this.host = host;
    this.conversations = conversations;
    this.settings = settings;
    this.composer = new Composer({
      submit: () => background(this.submit()),
      stop: () => this.abort(),
      countTokens: (text) => this.countTokens(text),
      roomFor: (documents, prompt) => this.roomFor(documents, prompt),
    });
    this.list = conversationList(conversations, {
      begin: () => this.begin(),
      open: () => this.drawers.close(),
      rename: (id, title) => this.rename(id, title),
      remove: (id) => this.remove(id),
      importFiles: (files) => this.importFiles(files),
    });
    const middle = el("section", { class: "chat", "aria-label": "Chat" });
    this.drawers = new Drawers(middle, [
      { panel: this.list.element, icon: "list", label: "Conversations" },
      { panel: side, icon: "sliders", label: "Model and settings" },
    ]);
    middle.append(this.bar(), this.log, this.problem, this.composer.element);
    this.element = el("div", { class: "chat-view" }, this.list.element, middle, side);
    conversations.onElsewhere = (id) => this.refresh(id);
    settings.onSystem = (text) => this.setSystem(text);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.abort();
    });
    host.watch(() => this.show());
    host.watch(this.recountDocuments());
  }

  /** Another model counts other tokens, and has another context. */
  private recountDocuments(): (state: HostState) => void {
    let counted: Engine | undefined;
    return ({ engine }) => {
      if (engine !== counted) this.composer.showDocuments();
      counted = engine;
    };
  }

  private bar(): HTMLElement {
    const [list, side] = this.drawers.buttons;
    return el(
      "div",
      { class: "bar" },
      ...(list ? [list] : []),
      this.title,
      this.save,
      ...(side ? [side] : []),
    );
  }

  /** Opens the conversation of the address, `id`; without one, goes on with the one that is open. */
  async open(id: string | undefined): Promise<void> {
    if (id === undefined && this.current.turns.length > 0) this.setAddress();
    if (id === undefined || id === this.current.id) return;
    const runs = [...this.running.keys()].find((one) => one.id === id);
    const found = runs ?? (await this.conversations.read(id));
    this.problem.textContent = found ? "" : "This conversation no longer exists: it was deleted.";
    this.use(found ?? newConversation(Date.now()));
  }

  private begin(): void {
    this.use(newConversation(Date.now()));
    history.replaceState(null, "", "#/chat");
    this.drawers.close();
    this.composer.focus();
  }

  /** Puts a conversation on the page. */
  private use(conversation: Conversation): void {
    if (conversation.id !== this.current.id) this.changeDraft(conversation.id);
    this.current = conversation;
    const run = this.running.get(conversation);
    this.views = conversation.turns.map((turn, i) =>
      run?.view && i === conversation.turns.length - 1 ? run.view : this.ended(turn),
    );
    this.log.replaceChildren(...this.views.map(({ element }) => element));
    this.settings.showSystem(conversation.system);
    this.list.mark(conversation.id);
    this.offerRetry();
    this.show();
    this.toEnd();
  }

  private changeDraft(id: string): void {
    this.drafts.set(this.current.id, this.composer.draft);
    this.composer.write(this.drafts.get(id) ?? { prompt: "", documents: [] });
    this.drafts.delete(id);
  }

  /** A turn that nothing is added to. */
  private ended(turn: Turn): TurnView {
    const view = this.viewOf(turn);
    if (turn.answer) view.finish(turn.answer);
    else view.fail(turn.failure ?? "There is no answer: the page was closed before it arrived.");
    return view;
  }

  private viewOf(turn: Turn): TurnView {
    const view = turnView(turn, () => {
      if (this.running.has(this.current)) return;
      view.edit((prompt) => background(this.askAgain(turn, { prompt, documents: turn.documents })));
    });
    return view;
  }

  private canSend({ engine, loading }: HostState = this.host.state): boolean {
    if (this.running.has(this.current) || engine?.info.model.generates === false) return false;
    return engine !== undefined || (loading === undefined && this.host.usual() !== undefined);
  }

  private show(): void {
    const state = this.host.state;
    const { engine } = state;
    const continues = engine?.info.model.generates === true && !hasTemplate(engine);
    const { turns } = this.current;
    this.composer.show({
      label: continues ? "Text to continue" : "Message",
      isRunning: this.running.has(this.current),
      canSend: this.canSend(state),
      takesDocuments: !continues,
      purpose: this.host.shipped()?.purpose ?? "",
    });
    this.title.textContent = titleOf(this.current);
    this.save.hidden = turns.length === 0;
    this.welcome.show(state, this.host.usual()?.name, this.host.shipped() !== undefined);
    if (turns.length === 0) this.log.replaceChildren(this.welcome.element);
    else this.welcome.element.remove();
  }

  /** Sends what is written; where no model is loaded yet, loads the usual one first. */
  private async submit(): Promise<void> {
    const draft = this.composer.draft;
    const sampling = this.canSend() && draft.prompt.trim() !== "" ? this.settings.read() : undefined;
    if (sampling) await this.send(draft, sampling);
  }

  private async send(draft: Draft, sampling: Sampling): Promise<void> {
    const conversation = this.current;
    await this.whileRunning(conversation, async (run) => {
      const engine = this.host.state.engine ?? (await this.loadUsual(run.controller.signal));
      if (!engine) return; // the model's panel says why, and the message stays where it is
      if (this.current === conversation) this.composer.clear();
      await this.ask(
        conversation,
        { ...draft, shape: hasTemplate(engine) ? "answer" : "continuation" },
        engine,
        sampling,
        run,
      );
    });
  }

  /** Cuts the conversation at a turn and asks anew from there. */
  private async askAgain(turn: Turn, draft: Draft): Promise<void> {
    const at = this.current.turns.indexOf(turn);
    const sampling = this.canSend() && at >= 0 ? this.settings.read() : undefined;
    if (!sampling) return;
    const conversation = this.current;
    await this.whileRunning(conversation, async (run) => {
      const engine = this.host.state.engine ?? (await this.loadUsual(run.controller.signal));
      if (!engine) return;
      conversation.turns.length = at;
      for (const view of this.views.splice(at)) view.element.remove();
      const { prompt, documents } = draft;
      await this.ask(conversation, { prompt, documents, shape: turn.shape }, engine, sampling, run);
    });
  }

  private async whileRunning(conversation: Conversation, work: (run: Run) => Promise<void>): Promise<void> {
    const run: Run = { controller: new AbortController() };
    this.running.set(conversation, run);
    this.show();
    this.composer.focus();
    try {
      await work(run);
    } finally {
      this.running.delete(conversation);
      this.show();
      if (this.current === conversation) this.following(() => this.offerRetry());
    }
  }

  private loadUsual(signal: AbortSignal): Promise<Engine | undefined> {
    const usual = this.host.usual();
    if (!usual) return Promise.resolve(undefined);
    const cancel = () => this.host.cancel();
    signal.addEventListener("abort", cancel, { once: true });
    return this.host.load(usual).finally(() => signal.removeEventListener("abort", cancel));
  }

  /** One turn, from its place on the page to its result. */
  private async ask(
    conversation: Conversation,
    turn: Turn,
    engine: Engine,
    sampling: Sampling,
    run: Run,
  ): Promise<void> {
    const view = this.viewOf(turn);
    run.view = view;
    conversation.turns.push(turn);
    conversation.updatedAtMs = Date.now();
    if (this.current === conversation) this.append(view);
    background(this.conversations.save(conversation));
    view.wait("Reading the prompt…");
    this.show();
    this.toEnd();
    try {
      await this.stream(requestFor(conversation, engine, sampling, run.controller.signal), turn, view, {
        engine,
        sampling,
      });
      if (turn.shape === "answer") background(recordTurn(conversation, engine));
    } catch (error) {
      turn.failure = errorText(error);
      this.following(() => view.fail(turn.failure ?? ""));
      if (isOver(error)) view.offer(button("Load the model again", () => background(this.host.reload())));
    }
    conversation.updatedAtMs = Date.now();
    background(this.conversations.save(conversation));
  }

  private append(view: TurnView): void {
    this.views.push(view);
    this.welcome.element.remove();
    this.log.append(view.element);
    this.list.mark(this.current.id);
    this.setAddress();
  }

  /** The address names the open conversation, so that a reload comes back to it. */
  private setAddress(): void {
    if (/^(#\/chat.*)?$/.test(location.hash)) history.replaceState(null, "", `#/chat/${this.current.id}`);
  }

  private async stream(
    generation: Generation,
    turn: Turn,
    view: TurnView,
    { engine, sampling }: { engine: Engine; sampling: Sampling },
  ): Promise<void> {
    for await (const { text } of generation) this.following(() => view.add(text));
    const { logprobs: _unasked, ...result } = await generation.result();
    const seed = sampling.temperature > 0 ? { seed: sampling.seed } : {};
    turn.answer = { ...result, ...seed, model: modelKey(engine.info) };
    const { answer } = turn;
    this.following(() => view.finish(answer));
  }

  /** The last turn can be asked once more. */
  private offerRetry(): void {
    for (const one of this.log.querySelectorAll(".retry")) one.remove();
    const turn = this.current.turns.at(-1);
    if (!turn || this.running.has(this.current)) return;
    const retry = iconButton("again", "Retry", () => background(this.askAgain(turn, turn)), {
      class: "quiet retry",
    });
    this.views.at(-1)?.offer(retry);
  }

  private abort(): void {
    this.running.get(this.current)?.controller.abort();
  }

  private async countTokens(text: string): Promise<number | undefined> {
    return await this.host.state.engine?.countTokens(text);
  }

  private async roomFor(documents: readonly AttachedDocument[], prompt: string): Promise<Room | undefined> {
    const { engine } = this.host.state;
    return engine && hasTemplate(engine) ? await roomFor(engine, this.current, documents, prompt) : undefined;
  }

  private setSystem(text: string): void {
    this.current.system = text;
    if (this.current.turns.length > 0) background(this.conversations.save(this.current));
  }

  private async rename(id: string, title: string): Promise<void> {
    const conversation = id === this.current.id ? this.current : await this.conversations.read(id);
    if (!conversation || title === "") return;
    conversation.title = title;
    conversation.isNamed = true;
    await this.conversations.save(conversation);
    this.show();
  }

  private async remove(id: string): Promise<void> {
    if (id === this.current.id) {
      this.abort();
      this.begin();
    }
    await this.conversations.remove(id);
  }

  private download(): void {
    saveFile(conversationFile(this.current));
  }

  /** Takes in exported conversations and opens the last of them. */
  async importFiles(files: readonly File[]): Promise<void> {
    this.problem.textContent = "";
    for (const file of files) {
      try {
        const conversation = await readConversationFile(file, Date.now());
        await this.conversations.save(conversation);
        this.use(conversation);
        this.setAddress();
        this.drawers.close();
      } catch (error) {
        this.problem.textContent = errorText(error);
      }
    }
  }

  /** Documents that were dropped on the page. */
  async attach(files: readonly File[]): Promise<void> {
    await this.composer.attach(files);
  }

  /** Another tab has changed a conversation: it is shown as it is now, unless something runs in it here. */
  private async refresh(id: string): Promise<void> {
    if (id !== this.current.id || this.running.has(this.current) || this.log.querySelector("form")) return;
    const found = await this.conversations.read(id);
    if (found) this.use(found);
  }

  /** Changes the conversation, and stays at its end if that is where the reader is. */
  private following(change: () => void): void {
    const { scrollHeight, scrollTop, clientHeight } = this.log;
    const atEnd = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    change();
    if (atEnd) this.toEnd();
  }

  private toEnd(): void {
    this.log.scrollTop = this.log.scrollHeight;
  }
}
