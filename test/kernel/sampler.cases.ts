/**
 * The sampler against a float64 judge that sorts. Logits are f32 in every setting, so f16 makes no difference here and
 * the settings are subgroups on and off.
 */
import { Random } from "../../src/base.ts";
import { Kernels } from "../../src/gpu/kernel.ts";
import { createSampler, INVALID_TOKEN, samplingParams } from "../../src/model/sampler.ts";
import type { SampledRow, Sampler, SamplingParams } from "../../src/model/sampler.ts";
import { SETTINGS, type Case, type CaseEnv } from "../support/cases.ts";
import { judge, logSoftmax, type Judgement, type SeatHistory } from "../support/reference-sampler.ts";

const STORAGE = 0x80;
const COPY_SRC = 0x04;
const COPY_DST = 0x08;
const MAP_READ = 0x01;

/** One row to sample: its seat, position and logits. */
interface Wanted {
  seat: number;
  position: number;
  logits: Float32Array;
}

const compiled = new WeakMap<GPUDevice, Map<boolean, Kernels>>();

/** Compiled once a device and form: software drivers take a second for it. */
function kernelsOf(env: CaseEnv, subgroups: boolean): Kernels {
  const forms = compiled.get(env.gpu.device) ?? new Map<boolean, Kernels>();
  compiled.set(env.gpu.device, forms);
  const kernels =
    forms.get(subgroups) ?? new Kernels({ ...env.gpu, features: { ...env.gpu.features, subgroups } });
  forms.set(subgroups, kernels);
  return kernels;
}

/** A sampler with buffers of its own, stepped by hand. */
interface Bench {
  sampler: Sampler;
  step(rows: readonly Wanted[]): Promise<{ rows: SampledRow[]; tokens: Uint32Array; bytes: Uint32Array }>;
  destroy(): void;
}

async function makeBench(env: CaseEnv, subgroups: boolean, vocab: number, seats: number): Promise<Bench> {
  const { device } = env.gpu;
  const kernels = kernelsOf(env, subgroups);
  const logits = device.createBuffer({ size: seats * vocab * 4, usage: STORAGE | COPY_DST });
  const tokens = device.createBuffer({ size: seats * 4, usage: STORAGE | COPY_SRC });
  const sampler = await createSampler(kernels, { vocab, seats, maxRows: seats, logits, tokens });
  const step = async (rows: readonly Wanted[]) => {
    rows.forEach((row, index) => device.queue.writeBuffer(logits, index * vocab * 4, row.logits.slice()));
    await sampler.prepareLogprobs();
    sampler.writeStep(rows);
    const resultBytes = sampler.resultBytes(rows.length);
    const staging = device.createBuffer({ size: resultBytes + seats * 4, usage: COPY_DST | MAP_READ });
    const encoder = device.createCommandEncoder();
    const shape = { rows: rows.length, sequences: rows.length, logitRows: rows.length, maxContext: 1 };
    for (const op of sampler.ops) {
      const grid = op.grid(shape);
      if (grid.includes(0)) continue;
      const pass = encoder.beginComputePass();
      pass.setPipeline(op.pipeline.compute);
      pass.setBindGroup(0, op.group);
      pass.dispatchWorkgroups(...grid);
      pass.end();
    }
    encoder.copyBufferToBuffer(sampler.results, 0, staging, 0, resultBytes);
    encoder.copyBufferToBuffer(tokens, 0, staging, resultBytes, seats * 4);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(1);
    const bytes = staging.getMappedRange().slice(0);
    staging.destroy();
    return {
      rows: sampler.parse(bytes, rows.length),
      tokens: new Uint32Array(bytes, resultBytes, seats),
      bytes: new Uint32Array(bytes.slice(0, resultBytes)),
    };
  };
  const destroy = () => {
    sampler.destroy();
    logits.destroy();
    tokens.destroy();
  };
  return { sampler, step, destroy };
}

const FRESH: SeatHistory = { prompt: new Set(), generated: new Map() };

/** Logits with a few tall ones, many ordinary and some very low ones. */
function lumpy(random: Random, vocab: number, scale = 3): Float32Array {
  const logits = Float32Array.from({ length: vocab }, () => random.normal() * scale);
  for (let i = 0; i < 5; i++) logits[random.below(vocab)] = (6 + random.next() * 4) * (scale / 3);
  for (let i = 0; i < vocab / 20; i++) logits[random.below(vocab)] = -1000 * random.next();
  return logits;
}

/** Error allowed to logit / temperature + noise: both logs to 2^-21, the inner of at least 1/16; the logit to 4 ulp. */
const SAFETY = 4;
function scoreError(judgement: Judgement, temperature: number): number {
  const largest = Math.abs(judgement.adjusted[judgement.order[0] as number] as number) + 20 * temperature;
  return SAFETY * (2 ** -21 * 16 + 2 ** -18 + (largest * 2 ** -21) / temperature);
}

/** Throws unless `got` is what the chain may give. */
function check(got: SampledRow, judgement: Judgement, params: SamplingParams, label: string): void {
  const { adjusted, order, fewest, most } = judgement;
  const value = (id: number) => adjusted[id] as number;
  if (params.temperature === 0 || params.topK === 1) {
    const best = order[0] as number;
    const near = Math.abs(value(got.token) - value(best)) <= Math.abs(value(best)) * 2 ** -20;
    const exact = adjusted.length > 0 && isIdentity(params);
    expect(exact ? got.token === best : near, `${label}: token ${got.token}, expected ${best}`);
    return;
  }
  expect(got.kept >= fewest && got.kept <= most, `${label}: kept ${got.kept}, expected ${fewest} to ${most}`);
  const last = value(order[got.kept - 1] as number);
  const lowest = last - Math.abs(last) * (isIdentity(params) ? 0 : 2 ** -20);
  expect(value(got.token) >= lowest, `${label}: token ${got.token} is outside the ${got.kept} kept`);
  const scores = order.slice(0, got.kept).map(judgement.score);
  const best = scores.reduce((a, b) => Math.max(a, b));
  const score = judgement.score(got.token);
  const error = scoreError(judgement, params.temperature);
  expect(score >= best - error, `${label}: token ${got.token} scores ${score}, the best ${best}`);
}

function isIdentity(params: SamplingParams): boolean {
  const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias } = params;
  const penalised = repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
  return !penalised && Object.keys(logitBias).length === 0;
}

function expect(condition: boolean, message: string): void {
  if (!condition) throw new Error(message);
}

function expectSame(actual: unknown, wanted: unknown, label: string): void {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(wanted)];
  expect(a === b, `${label}: ${a}, expected ${b}`);
}

/** Draws `rows` lumpy rows with each of `list`, eight positions each, and checks them all. */
async function checkParams(
  bench: Bench,
  vocab: number,
  list: readonly Partial<SamplingParams>[],
  make = lumpy,
): Promise<void> {
  const random = new Random(vocab + list.length);
  const all = list.map((given, index) => sampled({ seed: 1000 + index, ...given }, vocab));
  all.forEach((params, seat) => bench.sampler.resetSeat(seat, [], params));
  const rows = all.map((_, seat) => ({ seat, position: 17 + seat, logits: make(random, vocab) }));
  const adjusted = all.some((params) => !isIdentity(params));
  for (let turn = 0; turn < (adjusted ? 1 : 3); turn++) {
    const wanted = rows.map((row) => ({ ...row, position: row.position + turn }));
    const got = await bench.step(wanted);
    wanted.forEach(({ seat, position, logits }) => {
      const params = all[seat] as SamplingParams;
      const label = `vocab ${vocab} ${JSON.stringify(list[seat])} position ${position}`;
      check(got.rows[seat] as SampledRow, judge(logits, FRESH, params, position), params, label);
      expectSame(got.tokens[seat], got.rows[seat]?.token, `${label}: token for the next step`);
    });
  }
}

/** Settings that draw where they do not say that they are greedy. */
const sampled = (given: Partial<SamplingParams>, vocab: number): SamplingParams =>
  samplingParams({ temperature: 1, ...given }, vocab);

const FILTERS: readonly Partial<SamplingParams>[] = [
  { temperature: 0 },
  { temperature: 0.3 },
  { temperature: 2 },
  { topK: 1 },
  { topK: 2 },
  { topK: 40 },
  { topK: 300 },
  { topP: 0.05 },
  { topP: 0.5 },
  { topP: 0.95 },
  { topP: 0.9999 },
  { minP: 0.05 },
  { minP: 0.5 },
  { temperature: 0.8, topK: 40, topP: 0.95, minP: 0.05 },
  { temperature: 1.5, topK: 20, topP: 0.5 },
  { temperature: 0.7, topP: 0.8, minP: 0.01, logitBias: { 3: 100, 5: -100, 90: 7.5 } },
];

function inBothForms(name: string, run: (env: CaseEnv, subgroups: boolean) => Promise<void>): Case[] {
  return SETTINGS.filter(({ f16 }) => !f16).map(({ subgroups, label }) => ({
    name: `kernel/sampler/${name} ${label}`,
    needs: { subgroups },
    varied: { group: "kernel/sampler", settings: [name, subgroups] },
    run: (env) => run(env, subgroups),
  }));
}

/** A case that has its own bench. */
function benchCase(name: string, vocab: number, seats: number, run: (bench: Bench) => Promise<void>): Case[] {
  return inBothForms(name, async (env, subgroups) => {
    const bench = await makeBench(env, subgroups, vocab, seats);
    await run(bench);
    bench.destroy();
  });
}

const flat = (_: Random, vocab: number) => new Float32Array(vocab).fill(-1.25);
const small = (random: Random, vocab: number) => lumpy(random, vocab, 1e-3);
/** Four levels only, so that every cut falls among equals. */
const stepped = (random: Random, vocab: number) =>
  Float32Array.from({ length: vocab }, () => [3, 2, 0, -1][random.below(4)] as number);

function filterCases(): Case[] {
  const sizes = [96, 1000, 50257].flatMap((vocab) =>
    benchCase(`filters/${vocab}`, vocab, FILTERS.length, (bench) => checkParams(bench, vocab, FILTERS)),
  );
  const shapes = Object.entries({ flat, small, stepped }).flatMap(([name, make]) =>
    benchCase(`filters/${name}`, 1000, FILTERS.length, (bench) => checkParams(bench, 1000, FILTERS, make)),
  );
  const largest = benchCase("filters/262144", 262144, 2, (bench) =>
    checkParams(bench, 262144, [{ topK: 64, topP: 0.95 }, { topP: 0.9 }]),
  );
  return [...sizes, ...shapes, ...largest.map((c) => ({ ...c, full: true }))];
}

/** Equal logits: greedy takes the lowest id, top-k and top-p keep the lowest ids, exactly as many as they should. */
async function ties(bench: Bench): Promise<void> {
  const list = [{ temperature: 0 }, { topK: 7 }, { topP: 0.5 }, { topK: 50, topP: 0.5 }, { minP: 0.9 }];
  const logits = new Float32Array(1000).fill(2.5);
  const expected = [1, 7, 500, 25, 1000];
  list.forEach((given, seat) => bench.sampler.resetSeat(seat, [], sampled(given, 1000)));
  for (let position = 0; position < 20; position++) {
    const got = await bench.step(list.map((_, seat) => ({ seat, position, logits })));
    expectSame(
      got.rows.map(({ kept }) => kept),
      expected,
      "kept among equals",
    );
    got.rows.forEach(({ token }, seat) => {
      expect(token < (expected[seat] as number), `seat ${seat} drew ${token}, not of the lowest ids`);
    });
  }
  logits[0] = -1;
  logits[1] = -Infinity;
  const greedy = await bench.step([{ seat: 0, position: 0, logits }]);
  expectSame(greedy.rows[0]?.token, 2, "lowest id of equals");
}

/** Zero and negative zero are equal, and tokens of -inf are never drawn. */
async function edges(bench: Bench): Promise<void> {
  const logits = new Float32Array(96).fill(-Infinity);
  logits.set([-0, 0, -0], 60);
  const list = [{ temperature: 0 }, { topK: 2 }, { temperature: 1 }, { topP: 0.99 }];
  list.forEach((given, seat) => bench.sampler.resetSeat(seat, [], sampled(given, 96)));
  const seen = new Set<number>();
  for (let position = 0; position < 30; position++) {
    const got = await bench.step(list.map((_, seat) => ({ seat, position, logits })));
    expectSame(
      got.rows.map(({ kept }) => kept),
      [1, 2, 3, 3],
      "kept of three",
    );
    expectSame(got.rows[0]?.token, 60, "greedy");
    got.rows.forEach(({ token }) => seen.add(token));
  }
  expectSame([...seen].sort(), [60, 61, 62], "tokens drawn");
}

async function biased(bench: Bench): Promise<void> {
  const logits = lumpy(new Random(5), 1000);
  const best = logits.indexOf(Math.max(...logits));
  const list = [
    { temperature: 0, logitBias: { 123: 100 } },
    { temperature: 0, logitBias: { [best]: -100 } },
    {
      topK: 1,
      logitBias: Object.fromEntries(Array.from({ length: 300 }, (_, i) => [i * 3, i === 77 ? 90 : -1])),
    },
  ];
  const all = list.map((given) => sampled(given, 1000));
  all.forEach((params, seat) => bench.sampler.resetSeat(seat, [], params));
  const got = await bench.step(all.map((_, seat) => ({ seat, position: 4, logits })));
  expectSame([got.rows[0]?.token, got.rows[2]?.token], [123, 231], "raised tokens");
  expect(got.rows[1]?.token !== best, "a token with a bias of -100 was taken");
  got.rows.forEach((row, seat) => {
    const params = all[seat] as SamplingParams;
    check(row, judge(logits, FRESH, params, 4), params, `bias ${seat}`);
  });
}

/** Steps two penalised seats with nothing but positions from the host; then gives them to other requests. */
async function penalties(bench: Bench): Promise<void> {
  const random = new Random(11);
  const prompt = [5, 6, 7, 7, 40, 95];
  const list = [
    { temperature: 0, repetitionPenalty: 1.3, presencePenalty: 0.4, frequencyPenalty: 0.25 },
    { temperature: 0.9, topK: 30, repetitionPenalty: 0.8, frequencyPenalty: 0.7, seed: 3 },
    { temperature: 1.1, topP: 0.9, presencePenalty: 1.5, logitBias: { 6: 2, 41: -3 }, seed: 8 },
  ];
  for (const generated of [[], [6, 6, 41]]) {
    const all = list.map((given) => sampled(given, 96));
    const histories = all.map((params, seat): SeatHistory => {
      bench.sampler.resetSeat(seat, prompt, params, generated);
      const counts = new Map<number, number>();
      generated.forEach((id) => counts.set(id, (counts.get(id) ?? 0) + 1));
      return { prompt: new Set(prompt), generated: counts };
    });
    const logits = lumpy(random, 96, 1.5);
    for (let position = prompt.length; position < prompt.length + 25; position++) {
      const got = await bench.step(all.map((_, seat) => ({ seat, position, logits })));
      got.rows.forEach((row, seat) => {
        const history = histories[seat] as SeatHistory;
        const params = all[seat] as SamplingParams;
        check(row, judge(logits, history, params, position), params, `seat ${seat} position ${position}`);
        history.generated.set(row.token, (history.generated.get(row.token) ?? 0) + 1);
      });
    }
  }
}

async function logprobs(bench: Bench, vocab: number): Promise<void> {
  const random = new Random(21);
  const tied = stepped(random, vocab);
  const few = new Float32Array(vocab).fill(-Infinity);
  few.set([1, 2, 1], 30);
  const list = [
    { logits: lumpy(random, vocab), given: { temperature: 0, logprobs: 20, logitBias: { 9: 50 } } },
    { logits: lumpy(random, vocab), given: { temperature: 0.7, topK: 3, logprobs: 5 } },
    { logits: lumpy(random, vocab), given: { logprobs: 0 } },
    { logits: lumpy(random, vocab), given: {} },
    { logits: tied, given: { logprobs: 20 } },
    { logits: few, given: { logprobs: 10 } },
  ];
  list.forEach(({ given }, seat) => bench.sampler.resetSeat(seat, [], sampled(given, vocab)));
  const got = await bench.step(list.map(({ logits }, seat) => ({ seat, position: 2, logits })));
  got.rows.forEach((row, seat) => {
    const { logits, given } = list[seat] as (typeof list)[number];
    const wanted = "logprobs" in given ? given.logprobs : undefined;
    checkLogprobs(row, logits, wanted, `seat ${seat}`);
  });
}

function checkLogprobs(
  row: SampledRow,
  logits: Float32Array,
  wanted: number | undefined,
  label: string,
): void {
  if (wanted === undefined) {
    expectSame([row.logprob, row.top], [undefined, []], label);
    return;
  }
  const truth = logSoftmax(logits);
  const order = [...logits.keys()].filter((id) => logits[id] !== -Infinity);
  order.sort((a, b) => (logits[b] as number) - (logits[a] as number) || a - b);
  const close = (id: number, got: number) => Math.abs((truth[id] as number) - got) < 2e-5;
  expectSame(
    row.top.map(({ token }) => token),
    order.slice(0, wanted),
    `${label}: likeliest tokens`,
  );
  expect(close(row.token, row.logprob ?? NaN), `${label}: ${row.logprob}, expected ${truth[row.token]}`);
  row.top.forEach(({ token, logprob }) =>
    expect(close(token, logprob), `${label}: token ${token} ${logprob}, expected ${truth[token]}`),
  );
}

/** A broken row says so and does no harm to its neighbours or its own next step. */
async function broken(bench: Bench): Promise<void> {
  const good = lumpy(new Random(31), 1000);
  const withBits = (bits: number): Float32Array => {
    const row = good.slice();
    new Uint32Array(row.buffer)[777] = bits;
    return row;
  };
  const all = new Float32Array(1000).fill(-Infinity);
  const logits = [withBits(0x7fc00000), withBits(0xffc00001), withBits(0x7f800000), all, good];
  for (const given of [{ temperature: 0 }, { topK: 40, topP: 0.9, logprobs: 3, presencePenalty: 1 }]) {
    const params = sampled(given, 1000);
    logits.forEach((_, seat) => bench.sampler.resetSeat(seat, [], params));
    const got = await bench.step(logits.map((row, seat) => ({ seat, position: 9, logits: row })));
    expectSame(
      got.rows.slice(0, 4).map(({ token }) => token),
      [INVALID_TOKEN, INVALID_TOKEN, INVALID_TOKEN, INVALID_TOKEN],
      "broken rows",
    );
    expectSame([...got.tokens.slice(0, 4)], [0, 0, 0, 0], "tokens for the next step");
    check(got.rows[4] as SampledRow, judge(good, FRESH, params, 9), params, "the good row");
    const next = await bench.step([{ seat: 0, position: 10, logits: good }]);
    check(next.rows[0] as SampledRow, judge(good, FRESH, params, 10), params, "the step after");
  }
}

/** A row's record is the same bits alone, among others, in another order and on another seat. */
async function independence(bench: Bench): Promise<void> {
  const random = new Random(41);
  const params = FILTERS.slice(0, 8).map((given, index) =>
    sampled({ ...FILTERS[index + 8], ...given, seed: index, logprobs: index }, 1000),
  );
  const rows = params.map(() => lumpy(random, 1000));
  const place = (seats: readonly number[], only?: number) => {
    seats.forEach((seat, index) => bench.sampler.resetSeat(seat, [1, 2], params[index] as SamplingParams));
    const wanted = seats.map((seat, index) => ({
      seat,
      position: 50 + index,
      logits: rows[index] as Float32Array,
    }));
    return only === undefined ? wanted : [wanted[only] as Wanted];
  };
  const record = (bytes: Uint32Array, row: number): number[] => {
    const words = bytes.length === 44 ? bytes : bytes.subarray(row * 44, row * 44 + 44);
    return [...words.subarray(0, 3 + (words[2] as number) * 2 - (words[2] === 0 ? 0 : 1))];
  };
  const together = await bench.step(place([0, 1, 2, 3, 4, 5, 6, 7]));
  const reversed = await bench.step(place([7, 6, 5, 4, 3, 2, 1, 0]).reverse());
  for (let row = 0; row < 8; row++) {
    const wanted = record(together.bytes, row);
    expectSame(record(reversed.bytes, 7 - row), wanted, `row ${row} in another order`);
    const alone = await bench.step(place([3, 5, 0, 1, 7, 2, 4, 6], row));
    expectSame(record(alone.bytes, 0), wanted, `row ${row} alone`);
  }
}

/** Draws of 64 seeds at 64 positions follow the softmax, and neighbours in position do not depend on each other. */
async function distribution(bench: Bench): Promise<void> {
  const logits = Float32Array.from({ length: 96 }, (_, id) => Math.sin(id) * 2 + (id % 7) / 4);
  const temperature = 1.25;
  const seats = Array.from({ length: 64 }, (_, seat) => seat);
  seats.forEach((seat) => bench.sampler.resetSeat(seat, [], sampled({ temperature, seed: seat * 7 }, 96)));
  const counts = new Float64Array(96);
  const pairs = new Float64Array(9);
  let before: number[] | undefined;
  for (let position = 0; position < 64; position++) {
    const got = await bench.step(seats.map((seat) => ({ seat, position, logits })));
    const drawn = got.rows.map(({ token }) => token);
    drawn.forEach((token) => counts[token]!++);
    before?.forEach((token, seat) => pairs[third(token) * 3 + third(drawn[seat] as number)]!++);
    before = drawn;
  }
  const p = logSoftmax(logits.map((x) => x / temperature)).map(Math.exp);
  expectChiSquare(counts, p, "tokens");
  const thirds = [0, 1, 2].map((part) => p.reduce((sum, x, id) => sum + (third(id) === part ? x : 0), 0));
  const joint = thirds.flatMap((a) => thirds.map((b) => a * b));
  expectChiSquare(pairs, joint, "pairs of neighbouring positions");
}

function third(token: number): number {
  return token % 3;
}

/** Within five standard deviations; the seeds are fixed, so this is no matter of luck after the first run. */
function expectChiSquare(counts: ArrayLike<number>, p: ArrayLike<number>, label: string): void {
  const total = Array.from(counts).reduce((a, b) => a + b, 0);
  let statistic = 0;
  for (let i = 0; i < counts.length; i++) {
    const wanted = total * (p[i] as number);
    statistic += ((counts[i] as number) - wanted) ** 2 / wanted;
  }
  const freedom = counts.length - 1;
  const limit = freedom + 5 * Math.sqrt(2 * freedom);
  expect(
    statistic < limit,
    `${label}: chi-square ${statistic.toFixed(1)} of ${freedom}, limit ${limit.toFixed(1)}`,
  );
}

export const cases: Case[] = [
  ...filterCases(),
  ...benchCase("ties", 1000, 5, ties),
  ...benchCase("edges", 96, 4, edges),
  ...benchCase("bias", 1000, 3, biased),
  ...benchCase("penalties", 96, 3, penalties),
  ...benchCase("logprobs/96", 96, 6, (bench) => logprobs(bench, 96)),
  ...benchCase("logprobs/50257", 50257, 6, (bench) => logprobs(bench, 50257)),
  ...benchCase("broken rows", 1000, 5, broken),
  ...benchCase("independence", 1000, 8, independence),
  ...benchCase("distribution", 96, 64, distribution),
];
