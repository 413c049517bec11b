/**
 * Splits what a model writes into its reasoning and its answer, piece by piece, however the text was cut into pieces. Only for models
 * whose chat template has a place for reasoning; of all others the text is the answer.
 */

const OPEN = "<think>";
const CLOSE = "</think>";

export interface SplitText {
  reasoning: string;
  content: string;
}

/** Whether a prompt ends within reasoning, so that the model's text begins with it. */
export function endsInReasoning(prompt: string): boolean {
  return prompt.lastIndexOf(OPEN) > prompt.lastIndexOf(CLOSE);
}

/**
 *     <think>  why  </think>  answer
 *     [before][reasoning    ][content
 *
 * `before` is left at the first text that does not begin `<think>`.
 */
export class ReasoningSplit {
  private part: "before" | "reasoning" | "gap" | "content";
  /** What may be part of a mark, or white space between two parts. */
  private held = "";
  /** Whether there was any. */
  hasReasoned = false;

  constructor(startsInReasoning: boolean) {
    this.part = startsInReasoning ? "reasoning" : "before";
    this.hasReasoned = startsInReasoning;
  }

  get isReasoning(): boolean {
    return this.part === "reasoning";
  }

  push(text: string): SplitText {
    this.held += text;
    const out: SplitText = { reasoning: "", content: "" };
    while (this.step(out)) continue;
    return out;
  }

  /** The text has ended: what was held back belongs to the part that it ended in. */
  end(): SplitText {
    const { part, held } = this;
    this.held = "";
    if (part === "gap") return { reasoning: "", content: "" };
    return part === "reasoning" ? { reasoning: held, content: "" } : { reasoning: "", content: held };
  }

  /** Whether there is another part to look for in what is held. */
  private step(out: SplitText): boolean {
    switch (this.part) {
      case "before":
        return this.begin();
      case "reasoning":
        return this.reason(out);
      case "gap":
        this.held = this.held.trimStart();
        if (this.held === "") return false;
        this.part = "content";
        return true;
      case "content":
        out.content += this.held;
        this.held = "";
        return false;
    }
  }

  private begin(): boolean {
    const text = this.held.trimStart();
    if (OPEN.startsWith(text) && text.length < OPEN.length) return false;
    const opens = text.startsWith(OPEN);
    this.part = opens ? "reasoning" : "content";
    this.hasReasoned ||= opens;
    if (opens) this.held = text.slice(OPEN.length);
    return true;
  }

  private reason(out: SplitText): boolean {
    const at = this.held.indexOf(CLOSE);
    const sure = at < 0 ? this.held.length - openLength(this.held) : at;
    out.reasoning += this.held.slice(0, sure);
    this.held = this.held.slice(at < 0 ? sure : at + CLOSE.length);
    if (at >= 0) this.part = "gap";
    return at >= 0;
  }
}

/** How much of the end of a text may begin the closing mark. */
function openLength(text: string): number {
  let length = Math.min(CLOSE.length - 1, text.length);
  while (!text.endsWith(CLOSE.slice(0, length))) length--;
  return length;
}
