/** An engine that tabs share: who owns, who is asked, and what becomes of requests when tabs come, close and die. */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { TidepoolError } from "../../src/errors.ts";
import { Engine } from "../../src/index.ts";
import type { Ask } from "../../src/worker/local.ts";
import type { EngineInfo, FromWorker } from "../../src/wire/protocol.ts";
import { ShareClient } from "../../src/worker/share/guest.ts";
import { ShareOwner } from "../../src/worker/share/owner.ts";
import { shareKey } from "../../src/worker/share/platform.ts";
import { MAX_GUESTS, readShareMessage, type Say } from "../../src/worker/share/messages.ts";
import { testSeed } from "../support/seed.ts";
import { Bench, textOf, tokensOf, turn, type PageRequest, type Tab } from "../support/share-bench.ts";

const REST = "end";

async function openLoaded(count: number): Promise<{ bench: Bench; tabs: Tab[] }> {
  const bench = new Bench(new Random(1));
  const tabs: Tab[] = [];
  for (let i = 0; i < count; i++) tabs.push(await bench.open());
  await bench.finish();
  return { bench, tabs };
}

/** It has ended once, with what it would have said alone, or with a beginning of that where it was aborted. */
function checkEnded({ prompt, want, streamed, tokens, ends }: PageRequest, label: string): void {
  expect(ends.length, label).toBe(1);
  const [end] = ends;
  if (!end || !("finishReason" in end)) throw new Error(`${label}: ${end?.code}`);
  const whole = tokensOf(prompt, want);
  const isWhole = end.finishReason === "length";
  expect(end.tokens, label).toEqual(isWhole ? whole : whole.slice(0, end.tokens.length));
  expect(end.text, label).toBe(textOf(end.tokens) + (isWhole ? REST : ""));
  expect(streamed, label).toBe(end.text);
  expect(tokens, label).toEqual(end.tokens);
}

const requestOf = (tab: Tab, id: number): PageRequest => tab.requests.get(id)!;

describe("a shared engine", () => {
  test("is loaded once; each tab is told its part, and its requests are its own", async () => {
    const { bench, tabs } = await openLoaded(3);
    expect(tabs.map(({ role }) => role)).toEqual(["owner", "guest", "guest"]);
    expect(bench.engines.length).toBe(1);
    const ids = tabs.map((tab, i) => tab.submit(i, 10 + i));
    await bench.finish();
    tabs.forEach((tab, i) => checkEnded(requestOf(tab, ids[i]!), tab.id));
  });

  test("tells guests how it loads, also those that come late, and what the storage had to say", async () => {
    const bench = new Bench(new Random(1));
    const owner = await bench.open();
    owner.engine?.post({ type: "notice", notice: { code: "disk_full", message: "full" } });
    const early = await bench.open();
    await bench.settle();
    await bench.finish();
    const late = await bench.open();
    await bench.settle();
    for (const tab of [owner, early, late])
      expect(tab.heard.filter(({ type }) => type === "notice").length).toBe(1);
    for (const tab of [owner, early]) expect(tab.heard.some(({ type }) => type === "progress")).toBe(true);
    expect([early.isLoaded, late.isLoaded]).toEqual([true, true]);
  });

  test("goes to the next tab when the owner dies: streams go on, calls are asked again", async () => {
    const { bench, tabs } = await openLoaded(3);
    const [owner, second, third] = tabs as [Tab, Tab, Tab];
    const ids = [second, third].map((tab, i) => tab.submit(i, 20));
    await bench.settle();
    for (let i = 0; i < 5; i++) owner.engine?.step();
    await bench.settle();
    const asked = third.call({ method: "tokenize", text: "hello" });
    const lost = third.call({ method: "loseDevice" });
    await bench.kill(owner);
    await bench.settle();
    expect(second.heard.at(-1)?.type).toBe("progress");
    expect(third.heard.filter(({ type }) => type === "recovering").length).toBe(1);
    await bench.finish();
    expect([second.role, third.role]).toEqual(["owner", "guest"]);
    expect(second.engine?.resumedTokens).toBe(10);
    checkEnded(requestOf(second, ids[0]!), "second");
    checkEnded(requestOf(third, ids[1]!), "third");
    expect(third.answers.get(asked)).toEqual(["hello"]);
    expect(third.answers.get(lost)).toEqual([undefined]);
  });

  test("takes a guest in again that has looked around although its owner is still there: its stream goes on", async () => {
    const { bench, tabs } = await openLoaded(2);
    const [owner, guest] = tabs as [Tab, Tab];
    const id = guest.submit(1, 20);
    await bench.settle();
    for (let i = 0; i < 5; i++) owner.engine?.step();
    const { since } = Reflect.get(guest.share, "known") as { since: number };
    bench.wires.inject(guest.id, { kind: "leaving", from: owner.id, to: guest.id, ownedSince: since });
    await bench.finish();
    expect([guest.role, guest.heard.at(-1)?.type]).toEqual(["guest", "info"]);
    checkEnded(requestOf(guest, id), "guest");
    expect(owner.engine?.requests.size).toBe(0);
  });

  test("is given up in order when the owner closes: never are there two", async () => {
    const { bench, tabs } = await openLoaded(2);
    const [owner, guest] = tabs as [Tab, Tab];
    const mine = owner.submit(1, 30);
    const theirs = guest.submit(2, 30);
    await bench.settle();
    owner.engine?.step();
    await bench.settle();
    let release: () => void = () => {};
    const engine = owner.engine!;
    const close = engine.close.bind(engine);
    engine.close = async () => {
      await new Promise<void>((resolve) => (release = resolve));
      await close();
    };
    const closed = owner.share.close();
    await bench.settle();
    expect(guest.heard.at(-1)?.type).toBe("recovering");
    expect(guest.engines.length).toBe(0);
    release();
    await closed;
    await bench.finish();
    expect(guest.role).toBe("owner");
    expect(requestOf(owner, mine).ends).toMatchObject([{ finishReason: "aborted" }]);
    checkEnded(requestOf(guest, theirs), "guest");
  });

  test("ends what a guest asked when the guest dies or closes", async () => {
    const { bench, tabs } = await openLoaded(3);
    const [owner, second, third] = tabs as [Tab, Tab, Tab];
    second.submit(1, 50);
    const id = third.submit(2, 50);
    await bench.settle();
    owner.engine?.step();
    expect(owner.engine?.requests.size).toBe(2);
    await bench.settle();
    await bench.kill(second);
    expect(owner.engine?.requests.size).toBe(1);
    await third.share.close();
    await bench.settle();
    expect(owner.engine?.requests.size).toBe(0);
    checkEnded(requestOf(third, id), "third");
    await owner.share.close();
    expect(bench.locks.heldCount).toBe(0);
  });

  test("that cannot be loaded is the same error for all; a later tab tries again", async () => {
    const bench = new Bench(new Random(1));
    const owner = await bench.open(new TidepoolError("out_of_memory", "too large"));
    const guest = await bench.open();
    await bench.settle();
    owner.engine?.loaded();
    // The guest's turn comes as soon as the lock is free: it hears of the failure first where the message is first.
    while (bench.wires.deliver(bench.random));
    await turn();
    await bench.settle();
    expect(owner.error).toBe("out_of_memory");
    expect([guest.error, guest.role]).toEqual(
      guest.engines.length > 0 ? [undefined, undefined] : ["out_of_memory", undefined],
    );
    await guest.share.close();
    const later = await bench.open();
    await bench.finish();
    expect(later.role).toBe("owner");
  });

  test("whose engine fails later fails for all, and is free for the next", async () => {
    const { bench, tabs } = await openLoaded(2);
    const [owner, guest] = tabs as [Tab, Tab];
    await guest.share.close();
    const other = await bench.open();
    await bench.settle();
    const error = { code: "device_lost" as const, message: "twice", details: {} };
    owner.engine?.post({ type: "failed", error });
    await bench.settle();
    expect(owner.error).toBe("device_lost");
    expect(other.error ?? other.engines.length).toSatisfy((seen) => seen === "device_lost" || seen === 1);
    expect(bench.locks.holder("tidepool-engine:key")).not.toBe(owner.id);
  });

  test("is taken over from an owner that is suspended, and which is a guest when it wakes", async () => {
    const { bench, tabs } = await openLoaded(3);
    const [owner, second, third] = tabs as [Tab, Tab, Tab];
    const ids = tabs.map((tab, i) => tab.submit(i, 20));
    await bench.settle();
    owner.engine?.step();
    await bench.settle();
    bench.suspend(owner);
    for (let i = 0; i < 6; i++) bench.pass(5000);
    await bench.settle();
    expect([second.engines.length, third.engines.length]).toEqual([0, 0]);
    bench.pass(5000);
    await bench.finish();
    expect(second.engines.length + third.engines.length).toBeGreaterThan(0);
    expect([second, third].map(({ role }) => role).sort()).toEqual(["guest", "owner"]);
    for (const i of [1, 2]) checkEnded(requestOf(tabs[i]!, ids[i]!), tabs[i]!.id);
    await bench.wake(owner);
    await bench.finish();
    expect(owner.role).toBe("guest");
    expect(owner.engine?.state).toBe("closed");
    checkEnded(requestOf(owner, ids[0]!), "the former owner");
  });

  test("ends with an error where tabs do not hear each other", async () => {
    const { bench, tabs } = await openLoaded(2);
    const [owner, guest] = tabs as [Tab, Tab];
    guest.timer.advance(600_000);
    expect(guest.engines.length, "nothing is waited for").toBe(0);
    guest.submit(1, 5);
    for (let i = 0; i < 30; i++) {
      bench.pass(5000);
      await bench.settle();
    }
    expect(guest.engines.length, "it answers").toBe(0);
    for (const tab of [owner, guest]) bench.wires.cut(tab.id);
    for (let i = 0; i < 200 && bench.alive.every(({ error }) => error === undefined); i++) {
      if (i === 10) owner.submit(1, 5); // so that both wait for something
      bench.pass(5000);
      await turn();
    }
    expect([owner.error, guest.error]).toContain("worker_died");
  });

  test("turns tabs away that are too many", async () => {
    const { bench, tabs } = await openLoaded(MAX_GUESTS + 1);
    const more = await bench.open();
    await bench.settle();
    expect(more.error).toBe("rejected");
    await bench.kill(tabs[5]!);
    const another = await bench.open();
    await bench.settle();
    expect(another.role).toBe("guest");
  });

  test("listens to its cache as long as any tab does", async () => {
    const { bench, tabs } = await openLoaded(3);
    const [owner, second, third] = tabs as [Tab, Tab, Tab];
    for (const tab of [second, third]) tab.call({ method: "cacheWatch", on: true });
    await bench.settle();
    owner.engine?.post({ type: "cacheEvents", events: [], dropped: 1 });
    await bench.settle();
    const heard = (tab: Tab) => tab.heard.filter(({ type }) => type === "cacheEvents").length;
    expect([owner, second, third].map(heard)).toEqual([0, 1, 1]);
    second.call({ method: "cacheWatch", on: false });
    await bench.settle();
    expect(owner.engine?.watched).toEqual([true]);
    await bench.kill(owner);
    await bench.finish();
    expect(second.engine?.watched).toEqual([true]);
    await bench.kill(third);
    expect(second.engine?.watched).toEqual([true, false]);
  });

  test("gives every request the tokens it would have alone, whoever comes, closes or dies", async () => {
    const seed = testSeed("shared engine");
    const random = new Random(seed);
    let resumedTokens = 0;
    for (let round = 0; round < 120; round++) {
      const bench = new Bench(random);
      await randomLife(bench, 200, round % 2 === 0);
      for (const { engines } of bench.tabs)
        for (const engine of engines) resumedTokens += engine.resumedTokens;
    }
    expect(resumedTokens).toBeGreaterThan(0);
    console.log(`${resumedTokens} tokens were taken over`);
  });
});

/** @param suspends tabs are suspended, too, and owners that live may lose the lock: there may be two for a while */
async function randomLife(bench: Bench, operations: number, suspends: boolean): Promise<void> {
  const { random } = bench;
  for (let i = 0; i < operations; i++) {
    await randomOperation(bench);
    bench.nowMs += random.below(3);
    if (suspends) await randomSleep(bench);
    else expect(bench.engines.length).toBeLessThanOrEqual(1);
  }
  for (const tab of bench.alive) await bench.wake(tab);
  await bench.finish();
  expect(bench.engines.length).toBeLessThanOrEqual(1);
  for (const tab of bench.tabs) {
    for (const [id, request] of tab.requests) {
      const label = `${tab.id}, request ${id}`;
      if (tab.isAlive || request.ends.length > 0) checkEnded(request, label);
    }
    if (tab.isAlive) for (const answers of tab.answers.values()) expect(answers.length).toBe(1);
    expect(tab.error).toBeUndefined();
  }
  for (const tab of bench.alive) expect(tab.isLoaded).toBe(true);
  for (const tab of bench.alive) await tab.share.close();
  await bench.settle();
  expect(bench.locks.heldCount).toBe(0);
}

async function randomSleep(bench: Bench): Promise<void> {
  const { random, alive, active, wires } = bench;
  const operation = random.below(30);
  const asleep = alive.filter(({ id }) => wires.suspended.has(id));
  if (operation === 0 && active.length > 0) bench.suspend(random.pick(active));
  else if (operation === 1 && asleep.length > 0) await bench.wake(random.pick(asleep));
  else if (operation === 2 && asleep.length > 0) {
    for (let i = 0; i < 7; i++) {
      bench.pass(5000);
      while (wires.deliver(random)); // those who live answer in time
    }
    await turn();
  }
}

async function randomOperation(bench: Bench): Promise<void> {
  const { random, active: alive } = bench;
  const tab = alive.length > 0 ? random.pick(alive) : undefined;
  const [engine] = bench.engines;
  switch (random.below(18)) {
    case 0:
      if (alive.length < 5) await bench.open();
      return;
    case 1:
      if (tab && random.below(4) === 0) await bench.kill(tab);
      return;
    case 2:
      if (!tab || random.below(4) > 0) return;
      await tab.share.close();
      await bench.kill(tab);
      return;
    case 3:
      if (tab?.isLoaded) tab.submit(random.below(1000), 1 + random.below(30));
      return;
    case 4:
      if (tab && tab.requests.size > 0 && random.below(4) === 0)
        tab.share.fromPage({ type: "abort", id: random.pick([...tab.requests.keys()]) });
      return;
    case 5:
      if (tab?.isLoaded) tab.call({ method: "tokenize", text: "text" });
      return;
    case 6:
      engine?.loaded();
      return turn();
    case 7:
    case 8:
    case 9:
    case 10:
      return engine?.step();
    default:
      for (let i = random.below(20); i > 0; i--) bench.wires.deliver(random);
      return turn();
  }
}

describe("messages of a shared engine", () => {
  test("of any other shape are nobody's", async () => {
    const { bench, tabs } = await openLoaded(2);
    const [owner, guest] = tabs as [Tab, Tab];
    const to = owner.id;
    const from = guest.id;
    const envelope = { from, to, ownedSince: 0 };
    const bad: unknown[] = [
      ...[
        undefined,
        null,
        7,
        "x",
        [],
        {},
        { from, to },
        { from, to, kind: "join" },
        { ...envelope, kind: "constructor" },
      ],
      ...[
        { ...envelope, from: 1, kind: "join" },
        { ...envelope, kind: "__proto__" },
        { ...envelope, kind: "ask" },
      ],
      { ...envelope, kind: "ask", ask: { type: "submit", id: -1, input: {}, params: {} } },
      {
        from,
        to,
        kind: "ask",
        ask: { type: "submit", id: 1, input: {}, params: {}, resume: { tokens: "1" } },
      },
      { ...envelope, kind: "ask", ask: { type: "close" } },
      { ...envelope, kind: "say", say: { type: "step", outputs: [{ id: 1, text: 3, tokens: [] }] } },
      { ...envelope, kind: "say", say: { type: "loaded", info: {} } },
      { ...envelope, kind: "ready", info: {} },
    ];
    for (const message of bad) {
      expect(readShareMessage(message), JSON.stringify(message)).toBeUndefined();
      for (const tab of tabs) bench.wires.inject(tab.id, message);
    }
    const strangers = [
      { from: "nobody", ownedSince: 0, to, kind: "ask", ask: { type: "abort", id: 1 } },
      { from: "nobody", ownedSince: 0, to: guest.id, kind: "say", say: { type: "recovering" } },
      { from: "nobody", ownedSince: 0, to: guest.id, kind: "leaving" },
    ];
    const id = guest.submit(3, 4);
    for (const message of strangers) for (const tab of tabs) bench.wires.inject(tab.id, message);
    await bench.finish();
    checkEnded(requestOf(guest, id), "guest");
    expect(guest.heard.filter(({ type }) => type === "recovering").length).toBe(0);
  });

  test("the key is that of name, model and options", () => {
    const file = (lastModified: number) => [
      { name: "a.gguf", blob: new File(["1"], "a.gguf", { lastModified }) },
    ];
    const keys = [
      shareKey("a", "org/model", {}),
      shareKey("b", "org/model", {}),
      shareKey("a", "org/other", {}),
      shareKey("a", "org/model", { poolTokens: 64 }),
      shareKey("a", "org/model", { cache: { namespace: "x" } }),
      shareKey("a", file(1), {}),
      shareKey("a", file(2), {}),
    ];
    expect(new Set(keys).size).toBe(keys.length);
    expect(shareKey("a", file(1), {})).toBe(keys[5]);
    const options = { poolTokens: 64, blockTokens: 16 };
    expect(shareKey("a", "m", { blockTokens: 16, poolTokens: 64 })).toBe(shareKey("a", "m", options));
  });

  test("outside browsers sharing is an error that says so", async () => {
    await expect(Engine.load("model.gguf", { share: true })).rejects.toMatchObject({ code: "unsupported" });
  });
});

describe("what cannot be asked", () => {
  test("is refused to its guest, and the owner keeps nothing of it", () => {
    const told: [string, Say][] = [];
    let fails = true;
    const asked: Ask[] = [];
    const owner = new ShareOwner({
      ask(ask) {
        if (fails) throw new Error("injected");
        asked.push(ask);
      },
      tell: (guest, say) => void told.push([guest, say]),
    });
    owner.add("guest");
    const ask = { type: "submit", id: 7, input: { kind: "text", text: "x" }, params: {} } as const;
    owner.ask("guest", ask);
    expect(told).toMatchObject([["guest", { type: "refused", id: 7, error: { message: "injected" } }]]);
    fails = false;
    owner.ask("guest", ask); // the id is free again
    expect(asked.length).toBe(1);
    owner.remove("guest");
    expect(asked.map(({ type }) => type)).toEqual(["submit", "abort"]);
  });

  test("is refused to the page where the channel takes it not, now and when an owner comes", () => {
    const page: FromWorker[] = [];
    const client = new ShareClient((message) => void page.push(message));
    const closed = (): void => {
      throw new Error("injected");
    };
    const ask = (id: number) =>
      ({ type: "submit", id, input: { kind: "text", text: "x" }, params: {} }) as const;
    client.fromPage(ask(1));
    client.connect(closed, {} as EngineInfo, "guest");
    client.fromPage(ask(2));
    const refused = page.filter(({ type }) => type === "refused");
    expect(refused).toMatchObject([{ id: 1 }, { id: 2 }]);
    expect(client.isBusy).toBe(false);
  });
});

describe("a call that can be aborted", () => {
  const embed = (id: number): Ask => ({
    ...{ type: "call", id },
    call: { method: "embed", inputs: ["the sea"], params: {} },
  });

  test("is aborted by its page, and when its tab goes; other calls are not", () => {
    const asked: Ask[] = [];
    const owner = new ShareOwner({ ask: (ask) => asked.push(ask), tell: () => {} });
    owner.add("a");
    owner.ask("a", embed(7));
    owner.ask("a", { type: "call", id: 8, call: { method: "check" } });
    owner.ask("a", { type: "abort", id: 7 });
    expect(asked.slice(2)).toEqual([{ type: "abort", id: 1 }]);
    owner.say({ type: "refused", id: 1, error: { code: "aborted", message: "aborted", details: {} } });
    owner.ask("a", embed(9));
    owner.remove("a");
    expect(asked.slice(3)).toEqual([
      { ...embed(9), id: 3 },
      { type: "abort", id: 3 },
    ]);
  });

  test("ends at once where there is no owner to ask", () => {
    const heard: FromWorker[] = [];
    const client = new ShareClient((message) => heard.push(message));
    client.fromPage(embed(5));
    client.fromPage({ type: "abort", id: 5 });
    expect(heard).toMatchObject([{ type: "refused", id: 5, error: { code: "aborted" } }]);
    expect(client.isBusy).toBe(true); // not loaded yet, and nothing more
  });
});

test("what an engine has taken, the next one is to go on with, also where no token has come yet", () => {
  const asks: Ask[] = [];
  const client = new ShareClient(() => {});
  const connect = () => client.connect((ask) => asks.push(ask), {} as EngineInfo, "guest");
  const submit = (id: number) =>
    client.fromPage({ type: "submit", id, input: { kind: "text", text: "x" }, params: { ttftMs: 1 } });
  connect();
  submit(1);
  client.disconnect();
  submit(2); // nobody has seen it: it may be rejected
  connect();
  const resumes = asks.map((ask) => [ask.id, ask.type === "submit" && ask.resume]);
  expect(resumes).toEqual([
    [1, undefined],
    [1, { tokens: [] }],
    [2, undefined],
  ]);
});
