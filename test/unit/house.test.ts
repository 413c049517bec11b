/**
 * Tests of the code base itself: who may import whom, that every source file is reachable, what files may be called, and
 * that no committed file names a place that exists on one machine only.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, posix, relative, sep } from "node:path";
import { describe, expect, test } from "vitest";

/** A file below src, with forward slashes. */
type Source = string;

/** Room -> rooms it may import from, its own included. The order is that of the design: lower rooms first. */
const GROUND = ["base", "platform"];
const MAY_IMPORT: Record<string, readonly string[]> = {
  base: ["base"],
  platform: GROUND,
  shape: ["base", "shape"],
  gpu: ["base", "shape", "gpu"],
  load: [...GROUND, "load"],
  tier: [...GROUND, "tier"],
  text: ["base", "text"],
  cache: ["base", "shape", "cache"],
  model: ["base", "shape", "gpu", "load", "model"],
  schedule: ["base", "shape", "cache", "schedule"],
  sim: ["base", "shape", "cache", "schedule", "sim"],
  wire: [...GROUND, "wire"],
  worker: [...GROUND, "shape", "gpu", "load", "tier", "text", "cache", "model", "schedule", "wire", "worker"],
  openai: ["base", "wire", "openai"],
  engine: [...GROUND, "wire", "openai", "engine"],
  setup: [...GROUND, "gpu", "setup"],
  serve: [...GROUND, "wire", "openai", "engine", "serve"],
  api: [...GROUND, "wire", "engine", "sim", "setup", "serve", "api"],
  index: ["base", "wire", "openai", "engine"],
  demo: ["index", "sim", "demo"],
};

/** Single files that a room may see though the rest of their room is closed to it. */
const ALSO: Record<string, readonly Source[]> = {
  // Pure, and told what the GPU's routers chose.
  model: ["entry.ts", "expert-cache.ts", "policy.ts", "predictor.ts", "stats.ts"].map(
    (file) => `src/cache/experts/${file}`,
  ),
  wire: [
    "src/cache/events.ts",
    "src/cache/experts/policy.ts",
    "src/cache/policy/policy.ts",
    "src/load/download/hub.ts",
    "src/load/download/kept/model-store.ts",
    "src/model/experts/figures.ts",
    "src/model/sampling.ts",
    ...["cost/errors", "slo/goodput", "slo/objectives", "slo/prediction"].map(
      (file) => `src/schedule/${file}.ts`,
    ),
    "src/text/stop.ts",
    "src/worker/worker.ts",
  ],
  engine: ["src/load/named-model.ts", "src/load/download/kept/model-store.ts"],
  api: ["src/load/download/kept/folder-files.ts"],
};

/** Files from which everything else must be reached. */
const ENTRIES: readonly Source[] = [
  "src/index.ts",
  "src/engine/engine.ts",
  "src/worker/worker.ts",
  "src/api/cli.ts",
  "src/serve/index.ts",
  "src/sim/index.ts",
  "src/wgsl.d.ts",
];

const VAGUE_NAME = /^(utils?|helpers?|common|types|managers?|misc|shared|lib)\.ts$/;

const walk = (folder: string): string[] =>
  existsSync(folder)
    ? readdirSync(folder, { withFileTypes: true, recursive: true })
        .filter((entry) => entry.isFile())
        .map((entry) => relative(".", join(entry.parentPath, entry.name)).split(sep).join("/"))
    : [];

const sources = walk("src").filter((file) => file.endsWith(".ts"));
const demo = walk("demo").filter((file) => file.endsWith(".ts"));
const shaders = walk("shaders").filter((file) => file.endsWith(".wgsl"));

interface Import {
  from: Source;
  specifier: string;
  /** The file that a relative specifier names, from the repository's root. */
  file: Source | undefined;
  /** Whether only the file's address is taken, as for a worker. */
  isAddress: boolean;
}

const SPECIFIER =
  /(?:^|\n)\s*(?:import|export)\s[^;'"`]*?from\s*["']([^"']+)["']|(?:^|\n)\s*import\s*["']([^"']+)["']|\bimport\(\s*["']([^"']+)["']\s*\)|new URL\(\s*["'](\.[^"']+)["']\s*,\s*import\.meta\.url/g;

function importsOf(from: Source): Import[] {
  const text = withoutComments(readFileSync(from, "utf8"));
  return [...text.matchAll(SPECIFIER)].map((match) => {
    const specifier = match[1] ?? match[2] ?? match[3] ?? match[4] ?? "";
    const file = specifier.startsWith(".") ? posix.join(dirname(from), specifier) : undefined;
    return { from, specifier, file, isAddress: match[4] !== undefined };
  });
}

const withoutComments = (text: string): string =>
  text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");

/** The folder below src; files that lie in src itself are the base, but for the door to the world. */
function roomOf(file: Source): string {
  if (file.startsWith("demo/")) return "demo";
  if (file === "src/index.ts") return "index";
  return file.split("/").length === 2 ? "base" : (file.split("/")[1] ?? "");
}

/** Whether the design lets `from` import `to`. */
function allowed(from: Source, to: Source): boolean {
  if (to.startsWith("shaders/")) return roomOf(from) === "model" || roomOf(from) === "gpu";
  if (ALSO[roomOf(from)]?.includes(to)) return true;
  const rooms = MAY_IMPORT[roomOf(from)] ?? [];
  return rooms.includes(roomOf(to));
}

const edges = [...sources, ...demo].flatMap(importsOf);
const inside = edges.filter((edge): edge is Import & { file: Source } => edge.file !== undefined);

describe("imports", () => {
  test("every room stands in the design", () => {
    const rooms = new Set([...sources, ...demo].map(roomOf));
    expect([...rooms].filter((room) => !(room in MAY_IMPORT))).toEqual([]);
  });

  test("a room imports only what the design lets it see", () => {
    const wrong = inside.filter(({ from, file }) => !allowed(from, file));
    expect(wrong.map(({ from, file }) => `${from} imports ${file}`)).toEqual([]);
  });

  test("the rule itself refuses an upward and a sideways import", () => {
    expect(allowed("src/cache/tree/radix.ts", "src/schedule/scheduler.ts")).toBe(false);
    expect(allowed("src/load/gguf.ts", "src/text/tokenizer.ts")).toBe(false);
    expect(allowed("src/engine/engine.ts", "src/worker/worker.ts")).toBe(false);
    expect(allowed("src/engine/engine.ts", "src/wire/protocol.ts")).toBe(true);
    expect(allowed("src/model/runner.ts", "src/gpu/kernel.ts")).toBe(true);
  });

  test("a relative import names a file that exists, with its extension", () => {
    const missing = inside.filter(({ file }) => !existsSync(file));
    expect(missing.map(({ from, specifier }) => `${from}: ${specifier}`)).toEqual([]);
  });

  test("the pure rooms import no platform", () => {
    const pure = edges.filter(({ from }) => /^src\/(cache|schedule)\//.test(from));
    expect(pure.filter(({ specifier }) => !specifier.startsWith(".")).map((edge) => edge.specifier)).toEqual(
      [],
    );
  });

  test("a package that is imported stands in package.json", () => {
    const { dependencies, devDependencies } = JSON.parse(readFileSync("package.json", "utf8")) as {
      dependencies: object;
      devDependencies: object;
    };
    const wanting = edges
      .filter(({ specifier }) => !specifier.startsWith(".") && !specifier.startsWith("node:"))
      .map(({ from, specifier }) => {
        const name = specifier.split("/").slice(0, specifier.startsWith("@") ? 2 : 1);
        return { name: name.join("/"), from };
      })
      // The page is built before it is shipped, so what it imports need not be installed with the library.
      .filter(
        ({ from, name }) => !(name in dependencies || (roomOf(from) === "demo" && name in devDependencies)),
      );
    expect([...new Set(wanting.map(({ name }) => name))]).toEqual([]);
  });
});

describe("circles", () => {
  /** Files that import each other in a circle, types included, as groups. */
  function circles(graph: ReadonlyMap<Source, readonly Source[]>): Source[][] {
    const reach = (from: Source): Set<Source> => {
      const seen = new Set<Source>(graph.get(from));
      for (const file of seen) for (const next of graph.get(file) ?? []) seen.add(next);
      return seen;
    };
    const reached = new Map([...graph.keys()].map((file) => [file, reach(file)]));
    const groups = [...reached].map(([file, seen]) =>
      [...seen].filter((other) => reached.get(other)?.has(file)).sort(),
    );
    return [...new Map(groups.filter(({ length }) => length > 0).map((group) => [group[0], group])).values()];
  }

  test("no file imports itself by way of others, not even a type", () => {
    const graph = new Map<Source, Source[]>([...sources, ...demo].map((file) => [file, []]));
    // A worker's file is started by its address (`new URL`), not imported.
    const imported = inside.filter(({ file, isAddress }) => file.endsWith(".ts") && !isAddress);
    for (const { from, file } of imported) graph.get(from)?.push(file);
    expect(circles(graph)).toEqual([]);
  });

  test("the search itself finds a circle of two and one of three", () => {
    const graph = { a: ["b"], b: ["a", "c"], c: ["d"], d: ["e"], e: ["c"], f: ["a"] };
    expect(circles(new Map(Object.entries(graph)))).toEqual([
      ["a", "b"],
      ["c", "d", "e"],
    ]);
  });
});

/** Files that a folder may hold itself, its wings apart. */
const MAX_FILES_A_FOLDER = 16;

describe("files", () => {
  test("no folder is a hall of many rooms without wings", () => {
    const counts = new Map<string, number>();
    for (const file of [...sources, ...demo]) counts.set(dirname(file), (counts.get(dirname(file)) ?? 0) + 1);
    const over = [...counts].filter(([, count]) => count > MAX_FILES_A_FOLDER);
    expect(over.map(([folder, count]) => `${folder}: ${count} files`)).toEqual([]);
  });

  test("what is exported and is no type is used by another file", () => {
    const exported = /^export (?:abstract )?(?:async )?(?:const|let|function\*?|class) (\w+)/gm;
    const all = [...sources, ...demo, ...walk("test").filter((file) => file.endsWith(".ts"))];
    const texts = new Map(
      [...all, "vite.config.ts"].map((file) => [file, withoutComments(readFileSync(file, "utf8"))]),
    );
    const users = new Map<string, Set<Source>>();
    for (const [file, text] of texts)
      for (const word of new Set(text.match(/[A-Za-z_$][\w$]*/g))) {
        const files = users.get(word) ?? new Set();
        users.set(word, files.add(file));
      }
    const unused = [...sources, ...demo].flatMap((file) =>
      [...(texts.get(file) ?? "").matchAll(exported)]
        .filter(([, name = ""]) => (users.get(name)?.size ?? 0) < 2)
        .map(([, name]) => `${file}: ${name}`),
    );
    expect(unused).toEqual([]);
  });

  test("every source file is reached from an entry", () => {
    const reached = new Set<Source>(ENTRIES.filter((file) => existsSync(file)));
    for (const file of reached)
      for (const edge of importsOf(file))
        if (edge.file?.endsWith(".ts") && existsSync(edge.file)) reached.add(edge.file);
    expect(sources.filter((file) => !reached.has(file))).toEqual([]);
  });

  test("every shader is imported by a source file", () => {
    const imported = new Set(inside.map(({ file }) => file));
    expect(shaders.filter((file) => !imported.has(file))).toEqual([]);
  });

  test("no file has a name that says nothing", () => {
    const names = [...sources, ...demo].filter((file) => VAGUE_NAME.test(posix.basename(file)));
    expect(names).toEqual([]);
  });

  test("every file opens with a comment on what it is", () => {
    const files = [...sources, ...demo, ...shaders].filter((file) => !file.endsWith(".d.ts"));
    const bare = files.filter((file) => !/^(\/\*|\/\/)/.test(readFileSync(file, "utf8")));
    expect(bare).toEqual([]);
  });
});

describe("signals", () => {
  test("are listened to by onAbort alone, whose callers take their listeners off again", () => {
    const files = sources.filter((file) => file !== "src/base.ts");
    const by = files.filter((file) => readFileSync(file, "utf8").includes('addEventListener("abort"'));
    expect(by).toEqual([]);
    const calls = files.flatMap((file) => readFileSync(file, "utf8").match(/^.*\bonAbort\(.*$/gm) ?? []);
    expect(calls.length).toBeGreaterThan(0);
    expect(calls.filter((call) => !/= onAbort\(/.test(call))).toEqual([]);
  });
});

describe("GPU cases", () => {
  test("every file of cases is in the list that runs", () => {
    const listed = new Set(importsOf("test/runtime/cases.ts").map(({ file }) => file));
    const files = walk("test").filter((file) => file.endsWith(".cases.ts"));
    expect(files.filter((file) => !listed.has(file))).toEqual([]);
  });
});

describe("committed files", () => {
  const tracked = trackedFiles();

  test("name no place that exists on one machine only", () => {
    // Put together from parts, so that this file does not contain what it looks for.
    const places = [
      "/" + "work/",
      "/" + "root/",
      "/" + "home/",
      "/" + "tmp/",
      "registry." + "npmjs",
      "deb." + "debian.org",
    ];
    const found = tracked.flatMap((file) => {
      const text = readFileSync(file, "utf8");
      return places.filter((place) => text.includes(place)).map((place) => `${file}: ${place}`);
    });
    expect(found).toEqual([]);
  });

  test("leave the lock file without a registry", () => {
    const lock = JSON.parse(readFileSync("package-lock.json", "utf8")) as {
      packages: Record<string, { resolved?: string }>;
    };
    expect(Object.values(lock.packages).filter(({ resolved }) => resolved !== undefined)).toEqual([]);
  });
});

/** The text files under version control; without git, the files of the folders that we write ourselves. */
function trackedFiles(): string[] {
  const binary = /\.(gguf|safetensors|f32|bin|png|jpg|woff2?|wasm|ico)$/;
  try {
    const out = execFileSync("git", ["ls-files", "-z"], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    return out.split("\0").filter((file) => file !== "" && existsSync(file) && !binary.test(file));
  } catch {
    return ["src", "shaders", "demo", "test"].flatMap(walk).filter((file) => !binary.test(file));
  }
}

describe("shaders", () => {
  const code = (file: string) => withoutComments(readFileSync(file, "utf8")).replace(/\/\/.*$/gm, "");

  test("what saturates keeps NaN and infinity: clamp stands in lib/bounded.wgsl alone", () => {
    const clamping = shaders.filter((file) => /\bclamp\s*\(/.test(code(file)));
    expect(clamping).toEqual(["shaders/lib/bounded.wgsl"]);
  });

  test("no override stands behind a kernel's functions, in its file or in one that is put behind it: naga panics", () => {
    const late = shaders.filter((file) => {
      const text = code(file);
      const firstFunction = text.search(/^(@compute|fn)\b/m);
      return firstFunction >= 0 && /^override\b/m.test(text.slice(firstFunction));
    });
    expect(late).toEqual([]);
    const texts = sources.map((file) => ({ file, text: readFileSync(file, "utf8") }));
    const putting = texts.filter(({ text }) => /\bcode(: [\w.]+)? \+/.test(text));
    expect(putting.map(({ file }) => file)).toEqual(["src/model/matrix/products.ts"]);
    const { text = "" } = putting[0] ?? {};
    const behind = [...text.matchAll(/\bbindings: (\w+)/g)].map(([, name]) => {
      const path = new RegExp(`import ${name} from "[./]*(shaders/[^"]+)"`).exec(text)?.[1];
      return path ?? `no shader is imported as ${name}`;
    });
    expect(behind).toEqual(["shaders/lib/rows-chosen.wgsl", "shaders/lib/rows-sorted.wgsl"]);
    expect(behind.filter((file) => /^override\b/m.test(code(file)))).toEqual([]);
  });

  test("what is stored in a type that may be 16 bits wide is bounded", () => {
    const unbounded = shaders.filter((file) => {
      const text = code(file);
      const converts = /\b(elem|kv_t|out_t|out_columns_t)>?\s*\(/.test(text);
      return converts && !/\bbounded/.test(text);
    });
    // A stored number times a sigmoid, which is at most 1.
    expect(unbounded).toEqual(["shaders/output-gate.wgsl"]);
  });
});

describe("read-backs", () => {
  test("buffers are mapped in one place, which checks the mark of what was read", () => {
    const mapping = sources.filter((file) =>
      /\.mapAsync\(/.test(withoutComments(readFileSync(file, "utf8"))),
    );
    expect(mapping).toEqual(["src/gpu/read-back.ts"]);
    const unmarked = sources.filter((file) => /\bmapForReading\(/.test(readFileSync(file, "utf8")));
    // Times of a profile: nothing is computed from them.
    expect(unmarked.sort()).toEqual(["src/gpu/read-back.ts", "src/gpu/recorder.ts"]);
  });

  test("an error scope is opened where it is closed: in the guard, or around making buffers and pipelines", () => {
    const scoped = sources.filter((file) => /pushErrorScope\(/.test(readFileSync(file, "utf8")));
    const known = ["guard", "kernel", "pool", "state-pool"].map((name) => `src/gpu/${name}.ts`);
    expect(scoped.filter((file) => ![...known, "src/model/runner-parts.ts"].includes(file))).toEqual([]);
  });
});

test("what index.html names exists: in the page's sources, or among its public files", () => {
  const named = [...readFileSync("index.html", "utf8").matchAll(/(?:href|src)="\/([^"]+)"/g)];
  expect(named.length).toBeGreaterThan(3);
  const absent = named
    .map(([, path = ""]) => path)
    .filter((path) => !existsSync(path) && !existsSync(join("demo/public", path)));
  expect(absent).toEqual([]);
});

test("every pattern of import.meta.glob, and every file beside a module, matches a file", () => {
  const absent = [...sources, ...demo].flatMap((file) => {
    const text = withoutComments(readFileSync(file, "utf8"));
    const patterns = [...text.matchAll(/import\.meta\.glob(?:<[^>]*>)?\(\s*"([^"]+)"/g)];
    const beside = [...text.matchAll(/new URL\(\s*"(\.[^"]+)",\s*import\.meta\.url/g)];
    const matches = (pattern = ""): boolean => {
      const [folder, name] = [dirname(pattern), posix.basename(pattern)].map(String) as [string, string];
      const shape = new RegExp(`^${name.replaceAll(".", "\\.").replaceAll("*", ".*")}$`);
      const at = join(dirname(file), folder);
      return existsSync(at) && readdirSync(at).some((entry) => shape.test(entry));
    };
    return [...patterns, ...beside]
      .filter(([, pattern]) => !matches(pattern))
      .map(([, pattern]) => `${file}: ${pattern}`);
  });
  expect(absent).toEqual([]);
});
