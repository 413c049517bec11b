/**
 * The chat: the conversation, the composer, and one request at a time. A model without a chat template continues each
 * text on its own. Nothing is kept across reloads.
 */
import { TidepoolError, type Engine, type Generation } from "../src/index.ts";
import { answerView, type AnswerView } from "./answer-view.ts";
import { background } from "./background.ts";
import { messagesFor, type Turn } from "./conversation.ts";
import { button, el } from "./dom.ts";
import type { Host, HostState } from "./host.ts";
import type { Sampling, Settings } from "./settings.ts";
import { shippedModels } from "./shipped.ts";

/** How near to its end, in CSS pixels, a conversation counts as read, and so follows what is added. */
const NEAR_END_PX = 64;

const hasTemplate = (engine: Engine): boolean => engine.info.chatTemplate === "ready";

export class ChatView {
  readonly element: HTMLElement;
  private readonly host: Host;
  private readonly settings: Settings;
  private readonly log = el("div", { class: "log", role: "log", "aria-label": "Conversation", tabindex: 0 });
  private readonly empty = el("p", { class: "empty" });
  private readonly input = el("textarea", { id: "message", rows: 2, enterkeyhint: "send" });
  private readonly label = el("label", { for: "message" });
  private readonly send = el("button", { type: "submit", class: "main" }, "Send");
  private readonly stop = button("Stop", () => this.abort(), { class: "main" });
  private readonly clear = button("Clear", () => this.forget(), { class: "quiet" });
  private readonly retry = button("Retry", () => background(this.again()), { class: "quiet" });
  private turns: { turn: Turn; view: AnswerView }[] = [];
  private running: AbortController | undefined;

  constructor(host: Host, settings: Settings) {
    this.host = host;
    this.settings = settings;
    this.log.append(this.empty);
    this.element = el("section", { class: "chat", "aria-label": "Chat" }, this.log, this.composer());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.abort();
    });
    host.watch((state) => this.show(state));
  }

  private composer(): HTMLElement {
    const line = el("div", { class: "line" }, this.input, this.send, this.stop);
    const form = el(
      "form",
      { class: "composer" },
      el("div", { class: "head" }, this.label, this.clear),
      line,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      background(this.submit());
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (this.canSend()) form.requestSubmit();
    });
    return form;
  }

  private canSend({ engine, loading }: HostState = this.host.state): boolean {
    if (this.running) return false;
    return engine !== undefined || (loading === undefined && shippedModels.length > 0);
  }

  private show(state: HostState = this.host.state): void {
    const { engine } = state;
    const continues = engine !== undefined && !hasTemplate(engine);
    this.send.hidden = this.running !== undefined;
    this.stop.hidden = this.running === undefined;
    this.send.disabled = !this.canSend(state);
    this.clear.hidden = this.turns.length === 0;
    this.label.textContent = continues ? "Text to continue" : "Message";
    this.empty.hidden = this.turns.length > 0;
    this.empty.textContent = invitation(state);
  }

  /** Sends what is written; where no model is loaded yet, loads the shipped one first. */
  private async submit(): Promise<void> {
    const prompt = this.input.value;
    const sampling = this.canSend() && prompt.trim() !== "" ? this.settings.read() : undefined;
    if (!sampling) return;
    await this.whileRunning(async (signal) => {
      const engine = this.host.state.engine ?? (await this.loadShipped(signal));
      if (!engine) return; // the model's panel says why, and the message stays where it is
      this.input.value = "";
      await this.ask({ prompt, by: engine }, sampling, signal);
    });
  }

  /** Takes the last answer back and asks once more. */
  private async again(): Promise<void> {
    const last = this.turns.at(-1);
    const { engine } = this.host.state;
    const sampling = this.canSend() && last && engine ? this.settings.read() : undefined;
    if (!last || !engine || !sampling) return;
    this.turns.pop();
    last.view.element.remove();
    await this.whileRunning((signal) => this.ask({ prompt: last.turn.prompt, by: engine }, sampling, signal));
  }

  private async whileRunning(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const running = new AbortController();
    this.running = running;
    this.show();
    this.input.focus(); // the button that had the focus is gone
    try {
      await work(running.signal);
    } finally {
      this.running = undefined;
      if (document.activeElement === this.stop) this.input.focus();
      this.show();
    }
  }

  private loadShipped(signal: AbortSignal): Promise<Engine | undefined> {
    const [shipped] = shippedModels;
    if (!shipped) return Promise.resolve(undefined);
    signal.addEventListener("abort", () => this.host.cancel(), { once: true });
    return this.host.load({ name: shipped.name, model: shipped.url });
  }

  /** One turn, from its place on the page to its result. */
  private async ask(turn: Turn, sampling: Sampling, signal: AbortSignal): Promise<void> {
    const before = this.turns.map((one) => one.turn);
    const view = answerView(turn.prompt, hasTemplate(turn.by) ? "answer" : "continuation");
    this.turns.push({ turn, view });
    this.log.append(view.element);
    this.retry.remove();
    this.show();
    view.wait("Reading the prompt…");
    this.toEnd();
    try {
      const seed = sampling.temperature > 0 ? sampling.seed : undefined;
      await this.stream(request(before, turn, sampling, signal), turn, view, seed);
    } catch (error) {
      this.following(() => view.fail(error));
      if (isOver(error)) view.offer(button("Load the model again", () => background(this.host.reload())));
    }
    this.following(() => view.offer(this.retry));
  }

  private async stream(
    generation: Generation,
    turn: Turn,
    view: AnswerView,
    seed: number | undefined,
  ): Promise<void> {
    for await (const { text } of generation) this.following(() => view.add(text));
    const result = await generation.result();
    turn.result = result;
    this.following(() => view.finish(result, seed));
  }

  private abort(): void {
    this.running?.abort();
  }

  private forget(): void {
    this.abort();
    for (const { view } of this.turns) view.element.remove();
    this.turns = [];
    this.show();
    this.input.focus();
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

function request(before: readonly Turn[], turn: Turn, sampling: Sampling, signal: AbortSignal): Generation {
  const options = { ...sampling, overflow: "stop", signal } as const;
  const { by: engine, prompt } = turn;
  return hasTemplate(engine)
    ? engine.chat(messagesFor(before, turn), options)
    : engine.generate(prompt, options);
}

function invitation({ engine, loading }: HostState): string {
  if (loading) return "One moment: the model is loading.";
  if (engine && hasTemplate(engine)) return "Ask something.";
  if (engine) return "This model has no chat template: it continues what you write, each text on its own.";
  const [shipped] = shippedModels;
  return shipped
    ? `Choose a model, or just write: the first message loads ${shipped.name}.`
    : "Choose a model to begin: a file of yours, or an address.";
}

/** Whether the engine itself has ended, and not the request alone. */
function isOver(error: unknown): boolean {
  return error instanceof TidepoolError && ["closed", "device_lost", "internal"].includes(error.code);
}
