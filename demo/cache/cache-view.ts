/**
 * The cache view: the prefix tree as it lives, what is stored by tier with budgets that can be moved, the cache's decisions in
 * plain words, and the records. It asks the engine and hands on; what is drawn stands in cache/.
 */
import type { CacheEntry, CacheStats, Engine } from "../../src/index.ts";
import { background } from "../page/background.ts";
import { button, el } from "../page/dom.ts";
import { bytesText, countedTokens, errorText, numberText, secondsText } from "../page/format.ts";
import type { Host, HostState } from "../page/model/host.ts";
import { EventLog } from "./event-log.ts";
import { LiveTree } from "./live-tree.ts";
import { placeOf } from "./places.ts";
import { tierPanel, type TierPanel } from "./tier-panel.ts";
import "./cache.css";

/** How often the numbers are read while the view is seen. */
const EVERY_MS = 1000;
/** When the tree is read: this long after a decision, this long after the last reading, and at least this often. */
const TREE_AFTER_MS = 120;
const TREE_REST_MS = 250;
const TREE_EVERY_MS = 3000;
/** Records shown at most: the list is for looking, not for counting. */
const SHOWN_LIMIT = 200;

export class CacheView {
  readonly element = el("div", { class: "cache-view" });
  private readonly tree = new LiveTree();
  private readonly log = new EventLog();
  private readonly host: Host;
  private readonly absent = el("div", { class: "absent" });
  private readonly content = el("div", { class: "content" });
  private readonly tierList = el("section", { class: "tiers", "aria-label": "Tiers" });
  private tierIds: readonly string[] = [];
  private tiers: TierPanel[] = [];
  private readonly summary = el("p", { class: "lead" });
  private readonly table = el("tbody");
  private readonly said = el("p", { class: "said", role: "status" });
  private readonly problem = el("p", { class: "problem", role: "alert" });
  private readonly records = el("div", { class: "records" });
  private seen = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private treeTimer: ReturnType<typeof setTimeout> | undefined;
  private treeDueAtMs = Infinity;
  private readAtMs = -Infinity;
  private isReading = false;
  /** The engine that is listened to, and how to end that. */
  private heard: Engine | undefined;
  private unhear = (): void => {};

  constructor(host: Host) {
    this.host = host;
    this.showTiers(["gpu", "ram", "disk"]);
    this.content.append(
      this.summary,
      this.tree.element,
      this.tierList,
      this.log.element,
      this.actions(),
      this.said,
      this.problem,
      this.records,
      this.numbers(),
    );
    const head = el("div", { class: "page-head" }, el("h2", {}, "Cache"));
    this.element.append(head, this.absent, this.content);
    host.watch((state) => this.show(state));
  }

  /** Numbers are read only while somebody looks. */
  setSeen(seen: boolean): void {
    this.seen = seen;
    clearTimeout(this.timer);
    clearTimeout(this.treeTimer);
    this.treeTimer = undefined;
    if (!seen) return;
    background(this.read());
    this.askTree(0);
  }

  /** Listens to an engine as long as it is the one: the log goes on while another view is looked at. */
  private hear(engine: Engine | undefined): void {
    if (engine === this.heard) return;
    this.unhear();
    this.heard = engine;
    this.unhear = (): void => {};
    if (!engine) return;
    this.log.say(`Decisions of ${engine.info.model.name} appear here from now on.`);
    this.unhear = engine.cache.onEvent((events, dropped) => {
      this.log.add(events, dropped);
      this.askTree(TREE_AFTER_MS);
    });
  }

  /** Reads the tree after `ms`, unless it will be read before that. */
  private askTree(ms: number): void {
    if (!this.seen) return;
    const soonest = this.readAtMs + TREE_REST_MS - performance.now();
    const dueAtMs = performance.now() + Math.max(ms, soonest);
    if (this.treeTimer !== undefined && this.treeDueAtMs <= dueAtMs) return;
    clearTimeout(this.treeTimer);
    this.treeDueAtMs = dueAtMs;
    this.treeTimer = setTimeout(() => background(this.readTree()), Math.max(ms, soonest));
  }

  private async readTree(): Promise<void> {
    this.treeTimer = undefined;
    const { engine } = this.host.state;
    if (!engine || this.isReading) return;
    this.isReading = true;
    try {
      this.tree.show(await engine.cache.tree());
      this.askTree(TREE_EVERY_MS);
    } catch (error) {
      this.problem.textContent = errorText(error);
    } finally {
      this.isReading = false;
      this.readAtMs = performance.now();
    }
  }

  private show(state: HostState): void {
    const { engine } = state;
    this.hear(engine);
    this.content.hidden = engine === undefined;
    this.absent.hidden = engine !== undefined;
    const usual = this.host.usual();
    const load =
      usual && button(`Load ${usual.name}`, () => background(this.host.load(usual)), { class: "main" });
    const words = state.loading
      ? "The model is loading; what is stored of it appears here."
      : "No model is loaded. When one is, this view shows what its prompts left on the GPU, in memory and on disk.";
    this.absent.replaceChildren(el("p", {}, words), ...(load && !state.loading ? [load] : []));
    if (engine && this.seen) this.setSeen(true);
  }

  private actions(): HTMLElement {
    const list = button("List records", () => background(this.act((engine) => this.list(engine))));
    const verify = button("Verify", () => background(this.act((engine) => this.verify(engine))));
    const clear = button("Clear…", () => {
      confirm.hidden = false;
      confirm.querySelector("button")?.focus();
    });
    const close = (): void => {
      confirm.hidden = true;
      clear.focus();
    };
    const forget = (): void => {
      close();
      background(this.act((engine) => this.clear(engine)));
    };
    const confirm = el("span", { class: "confirm", hidden: true }, "Forget everything that is stored?");
    confirm.append(button("Forget", forget, { class: "danger" }), button("Keep", close));
    return el("div", { class: "actions" }, list, verify, clear, confirm);
  }

  private numbers(): HTMLElement {
    const names = [
      "Tier",
      "Used",
      "Budget",
      "Records",
      "Hits",
      "Misses",
      "In",
      "Out",
      "Dropped",
      "Time saved",
    ];
    const head = el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)));
    const table = el(
      "table",
      { class: "numbers" },
      el("caption", {}, "By tier"),
      el("thead", {}, head),
      this.table,
    );
    return el(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers by tier" },
      table,
    );
  }

  private async read(): Promise<void> {
    clearTimeout(this.timer);
    const { engine } = this.host.state;
    if (!this.seen || !engine) return;
    try {
      this.draw(await engine.cache.stats(), engine.info.memory.kvPoolBytes);
      this.problem.textContent = "";
    } catch (error) {
      this.problem.textContent = errorText(error);
      return; // the engine has ended: loading another begins anew
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => background(this.read()), EVERY_MS);
  }

  private draw(stats: CacheStats, poolBytes: number): void {
    this.showTiers(["gpu", ...stats.tiers.map(({ name }) => name)]);
    for (const tier of this.tiers) tier.show(stats, poolBytes);
    const saved = Object.values(stats.timeSavedMs).reduce((sum, ms) => sum + ms, 0);
    const { lookups, tokensAsked } = stats.gpu;
    const prompts = `${numberText(lookups)} prompt${lookups === 1 ? "" : "s"} with ${countedTokens(tokensAsked)} since the model was loaded`;
    const worth = saved > 0 ? `; about ${secondsText(saved)} of computing saved` : "";
    this.summary.textContent =
      lookups === 0 ? "Nothing has been asked yet since the model was loaded." : `${prompts}${worth}.`;
    this.table.replaceChildren(...rowsOf(stats, poolBytes));
  }

  /** Makes the panels anew if the engine has other tiers than are drawn. */
  private showTiers(ids: readonly string[]): void {
    if (ids.join() === this.tierIds.join()) return;
    this.tierIds = ids;
    this.tiers = ids.map((id) => tierPanel(placeOf(id), (bytes) => background(this.setBudget(id, bytes))));
    this.tierList.replaceChildren(...this.tiers.map(({ element }) => element));
  }

  private async setBudget(tier: string, bytes: number): Promise<void> {
    const budgets = { [`${tier}Bytes`]: bytes };
    await this.act(async (engine) => {
      const before = await engine.cache.stats();
      await engine.cache.setBudgets(budgets);
      const after = await engine.cache.stats();
      const name = placeOf(tier).name.toLowerCase();
      const gone = recordsOf(before, tier) - recordsOf(after, tier);
      const left = gone > 0 ? `; ${numberText(gone)} record${gone === 1 ? "" : "s"} evicted` : "";
      this.log.say(`The budget of ${name} is ${bytesText(bytes)} now${left}.`);
      return `The budget of ${name} is ${bytesText(bytes)} now.`;
    });
  }

  /** Does something with the cache and says what came of it. */
  private async act(work: (engine: Engine) => Promise<string>): Promise<void> {
    const { engine } = this.host.state;
    if (!engine) return;
    this.problem.textContent = "";
    try {
      this.said.textContent = await work(engine);
    } catch (error) {
      this.problem.textContent = errorText(error);
    }
    await this.read();
    this.askTree(0);
  }

  private async list(engine: Engine): Promise<string> {
    const entries = await engine.cache.list();
    this.records.replaceChildren(
      ...(entries.length > 0 ? [recordsTable(entries.slice(0, SHOWN_LIMIT))] : []),
    );
    const shown = Math.min(entries.length, SHOWN_LIMIT);
    return entries.length === 0
      ? "Nothing is stored yet."
      : `${shown} of ${numberText(entries.length)} records.`;
  }

  private async verify(engine: Engine): Promise<string> {
    const { checked, bad } = await engine.cache.verify();
    const reasons = Object.entries(bad).map(([reason, count]) => `${count} ${reason}`);
    const outcome = reasons.length === 0 ? "all are intact" : `dropped: ${reasons.join(", ")}`;
    return `${numberText(checked)} records checked: ${outcome}.`;
  }

  private async clear(engine: Engine): Promise<string> {
    await engine.cache.clear();
    this.records.replaceChildren();
    return "Everything that was stored is forgotten.";
  }
}

function recordsOf({ tiers }: CacheStats, id: string): number {
  return tiers.find(({ name }) => name === id)?.records ?? 0;
}

function rowsOf(stats: CacheStats, poolBytes: number): HTMLElement[] {
  const { gpu, timeSavedMs } = stats;
  const { blocks } = gpu;
  const used = blocks.cached + blocks.inUse;
  const rows: (string | number)[][] = [
    [
      "GPU",
      bytesText(gpu.bytes),
      bytesText(poolBytes),
      `${numberText(used)} blocks`,
      gpu.lookups,
      "–",
      "–",
      "–",
      gpu.evictions,
      secondsText(timeSavedMs.gpu),
    ],
    ...stats.tiers.map((tier) => {
      const { bytes, budgetBytes, records, hits, misses, promotions, demotions, drops } = tier;
      const missed = Object.values(misses).reduce((sum, count) => sum + count, 0);
      const { name } = placeOf(tier.name);
      const moved = [records, hits, missed, demotions, promotions, drops].map(numberText);
      return [
        name,
        bytesText(bytes),
        bytesText(budgetBytes),
        ...moved,
        secondsText(timeSavedMs[tier.name] ?? 0),
      ];
    }),
  ];
  return rows.map(([name, ...cells]) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, String(name)),
      ...cells.map((cell) => el("td", {}, String(cell))),
    ),
  );
}

function recordsTable(entries: readonly CacheEntry[]): HTMLElement {
  const names = ["Key", "Kind", "Block", "Tokens", "Size", "Tiers", "Made"];
  const rows = entries.map(({ key, kind, blockIndex, tokens, bytes, tiers, createdAtMs }) => {
    const made = new Date(createdAtMs).toLocaleString("en-GB");
    const cells = [
      kind,
      numberText(blockIndex),
      numberText(tokens),
      bytesText(bytes),
      tiers.join(", "),
      made,
    ];
    const name = el("th", { scope: "row" }, el("code", {}, key.slice(0, 12)));
    return el("tr", {}, name, ...cells.map((cell) => el("td", {}, cell)));
  });
  const head = el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)));
  const table = el(
    "table",
    {},
    el("caption", {}, "Records"),
    el("thead", {}, head),
    el("tbody", {}, ...rows),
  );
  return el("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Records" }, table);
}
