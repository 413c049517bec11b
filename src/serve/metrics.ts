/** What a server counts, in Prometheus's text, through prom-client: the format has more corners than it seems to. It holds no requests. */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { OpenAiUsage } from "../openai/objects.ts";
import type { ModelShelf } from "./model-shelf.ts";

const SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100];

export class Metrics {
  private readonly registry = new Registry();
  private readonly shelf: ModelShelf;
  private readonly requests = this.counter("requests_total", "HTTP requests", ["route", "status"]);
  private readonly prompt = this.counter("prompt_tokens_total", "Prompt tokens by where they came from", [
    "model",
    "source",
  ]);
  private readonly completion = this.counter("completion_tokens_total", "Generated tokens", ["model"]);
  private readonly firstToken = new Histogram({
    name: "tidepool_time_to_first_token_seconds",
    help: "Time to the first token",
    labelNames: ["model"],
    buckets: SECONDS,
    registers: [this.registry],
  });
  private readonly active = this.gauge("requests", "Requests in the engine by status", ["model", "status"]);
  private readonly cached = this.gauge("cache_bytes", "Bytes of the KV cache by tier", ["model", "tier"]);
  private readonly memory = this.gauge("gpu_bytes", "Bytes on the GPU by use", ["model", "use"]);
  private readonly open = this.gauge("open_requests", "HTTP requests under way", []);

  constructor(shelf: ModelShelf) {
    this.shelf = shelf;
  }

  answered(route: string, status: number): void {
    this.requests.inc({ route, status });
  }

  used(model: string, usage: OpenAiUsage): void {
    const { computed_tokens: computed, cached_tokens: cached, ttft_ms: ttftMs } = usage.tidepool;
    for (const [source, tokens] of Object.entries({ ...cached, computed }))
      this.prompt.inc({ model, source }, tokens);
    this.completion.inc({ model }, usage.completion_tokens);
    this.firstToken.observe({ model }, ttftMs / 1000);
  }

  /** @param open requests under way */
  async text(open: number): Promise<string> {
    this.open.set({}, open);
    for (const gauge of [this.active, this.cached, this.memory]) gauge.reset(); // models come and go
    await Promise.all(this.shelf.loaded.map((each) => this.look(each)));
    return this.registry.metrics();
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  private async look({ name: model, engine }: ModelShelf["loaded"][number]): Promise<void> {
    const { weightBytes, kvPoolBytes, statePoolBytes, workspaceBytes } = engine.info.memory;
    const uses = { weights: weightBytes, kv: kvPoolBytes, states: statePoolBytes, workspace: workspaceBytes };
    for (const [use, bytes] of Object.entries(uses)) this.memory.set({ model, use }, bytes);
    try {
      const [{ schedule }, { gpu, ram, disk }] = await Promise.all([engine.stats(), engine.cache.stats()]);
      const { waiting, prefilling, decoding } = schedule;
      for (const [status, count] of Object.entries({ waiting, prefilling, decoding }))
        this.active.set({ model, status }, count);
      for (const [tier, { bytes }] of Object.entries({ gpu, ram, disk }))
        this.cached.set({ model, tier }, bytes);
    } catch {
      // An engine that ends meanwhile is not counted.
    }
  }

  private counter(name: string, help: string, labelNames: string[]): Counter {
    return new Counter({ name: `tidepool_${name}`, help, labelNames, registers: [this.registry] });
  }

  private gauge(name: string, help: string, labelNames: string[]): Gauge {
    return new Gauge({ name: `tidepool_${name}`, help, labelNames, registers: [this.registry] });
  }
}
