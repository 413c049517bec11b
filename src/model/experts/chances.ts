/**
 * How many layers a decode step runs behind a router by guess before it looks what they chose: as many as bring it on fastest, by
 * the chances that layers lack no expert and by what a read-back and a layer take (read-pace.ts). It knows no experts.
 */

/** Whether what was predicted for a layer is there. */
export type Outlook = "good" | "bad" | "unknown";

/** Of a layer's chance to lack nothing, what the last step decides. */
const SHARE_OF_LAST = 0.1;

const FIRST_CHANCE = 0.5;

export class Chances {
  /** By outlook and layer: how often it lacked nothing of late. */
  private readonly chances: Readonly<Record<Outlook, number[]>>;
  private readonly outlooks: Outlook[];

  constructor(layers: number) {
    const all = (): number[] => new Array<number>(layers).fill(FIRST_CHANCE);
    this.chances = { good: all(), bad: all(), unknown: all() };
    this.outlooks = new Array<Outlook>(layers).fill("unknown");
  }

  /**
   * The layer behind whose router a step should stop that stands behind that of `first`. It gets to know the choices of `first` in any
   * case, and of each further layer if those before it lack nothing.
   * @param msOf what a read-back behind so many layers takes
   */
  lastOfGuess(
    first: number,
    outlookOf: (layer: number) => Outlook,
    msOf: (layers: number) => number,
  ): number {
    let [last, best] = [first, 1 / msOf(1)];
    let [chance, known] = [1, 1];
    const end = this.outlooks.length - 1;
    this.outlooks[end] = outlookOf(end);
    for (let layer = first; layer < end; layer++) {
      chance *= this.chanceOf(layer, (this.outlooks[layer] = outlookOf(layer)));
      known += chance;
      const rate = known / msOf(layer + 2 - first);
      if (rate > best) [last, best] = [layer + 1, rate];
    }
    return last;
  }

  /** What became of a layer for which `lastOfGuess` was asked. */
  note(layer: number, lackedNothing: boolean): void {
    const chances = this.chances[this.outlooks[layer] as Outlook];
    const before = chances[layer] as number;
    chances[layer] = before + SHARE_OF_LAST * ((lackedNothing ? 1 : 0) - before);
  }

  private chanceOf(layer: number, outlook: Outlook): number {
    return this.chances[outlook][layer] as number;
  }
}
