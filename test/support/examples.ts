/**
 * Turns the `@example`s of the package's docstrings into modules that can be type-checked and run. In an example all exports of
 * its entry point are in scope without an import, and so is what `GIVEN` declares; `MODELS_ADDRESS` is a server of the test; an example titled "In a page" is
 * type-checked and not run. `console.log(x); // text` states what is printed; "e.g." before the text: something like it.
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import ts from "typescript";
import { ENTRY_POINTS, type EntryPoint, type PublicSymbol } from "./public-symbols.ts";

/** Title of examples that need a browser. */
const IN_A_PAGE = "In a page";

/** Where examples download models from. */
const MODELS_ADDRESS = "https://models.example";

/** What every example is given: one engine for all of them, and a trace with the cost of a model. */
const GIVEN = `{ engine, trace, cost, logAt }: {
  engine: import("tidepool").Engine;
  trace: import("tidepool/sim").Trace;
  cost: import("tidepool/sim").Cost;
  logAt: (line: number, ...values: unknown[]) => void;
}`;

export interface ExampleModule {
  /** The symbol, with a number if it has several examples. */
  name: string;
  /** The TypeScript file. */
  file: string;
  runs: boolean;
  /** Lines of the example with what they say is printed there. */
  printed: { line: number; text: string }[];
}

/** The sources as a program, the way the compiler of `npm run check` sees them. */
export function sourceProgram(): ts.Program {
  return ts.createProgram([...Object.values(ENTRY_POINTS), "src/wgsl.d.ts"], compilerOptions());
}

function compilerOptions(): ts.CompilerOptions {
  const { config } = ts.readConfigFile("tsconfig.json", (file) => ts.sys.readFile(file)) as {
    config: { compilerOptions: object };
  };
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, ".");
  const paths = Object.fromEntries(
    Object.entries(ENTRY_POINTS).map(([name, file]) => [name, [resolve(file)]]),
  );
  return { ...options, paths, noUnusedLocals: false, noUnusedParameters: false };
}

/** Writes each example as a module into `folder`, as TypeScript and as JavaScript. @param server in place of `MODELS_ADDRESS` */
export function writeExamples(
  symbols: readonly PublicSymbol[],
  folder: string,
  server: string,
): ExampleModule[] {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  return symbols.flatMap((symbol) =>
    symbol.examples.flatMap(({ code, title }, i) => {
      if (code === undefined) return [];
      const name = symbol.examples.length > 1 ? `${symbol.name} (${i + 1})` : symbol.name;
      const stem = `${symbol.from.replace("/", "-")}-${name.replace(/[^\w.]+/g, "-")}`;
      const file = join(folder, `${stem}.ts`);
      const source = moduleOf(code.replaceAll(MODELS_ADDRESS, server), importsOf(symbols, symbol.from));
      writeFileSync(file, source);
      writeFileSync(join(folder, `${stem}.js`), toJavaScript(source));
      return [{ name, file, runs: title !== IN_A_PAGE, printed: statedOutput(code) }];
    }),
  );
}

function importsOf(symbols: readonly PublicSymbol[], from: EntryPoint): string {
  const own = symbols.filter((symbol) => symbol.from === from && symbol.kind !== "member");
  const names = own.map(({ name, kind }) => (kind === "type" ? `type ${name}` : name));
  return `import { ${names.join(", ")} } from "${from}";`;
}

/** The example as the body of a function, in a block of its own so that it may declare an `engine` too. */
function moduleOf(code: string, imports: string): string {
  const lines = code
    .split("\n")
    .map((line, i) => line.replace(/\bconsole\.log\(/, `logAt(${i}, `))
    .join("\n");
  return `${imports}\nexport default async function (${GIVEN}): Promise<void> {{\n${lines}}}\n`;
}

function toJavaScript(source: string): string {
  const { target, module, verbatimModuleSyntax } = compilerOptions();
  return ts.transpileModule(source, {
    compilerOptions: { target: target!, module: module!, verbatimModuleSyntax: verbatimModuleSyntax! },
  }).outputText;
}

/** What an example says that it prints. */
export function statedOutput(code: string): ExampleModule["printed"] {
  return code.split("\n").flatMap((content, line) => {
    const text = /\bconsole\.log\(.*\/\/ (.*)$/.exec(content)?.[1];
    return text === undefined || text.startsWith("e.g.") ? [] : [{ line, text }];
  });
}

/** The compiler's messages for the modules, in one program that takes over what `program` has read. */
export function typeErrors(modules: readonly ExampleModule[], program: ts.Program): string[] {
  const files = modules.map(({ file }) => file);
  const all = ts.createProgram(
    [...program.getRootFileNames(), ...files],
    compilerOptions(),
    undefined,
    program,
  );
  return modules.flatMap(({ name, file }) => {
    const source = all.getSourceFile(file);
    const found = [...all.getSyntacticDiagnostics(source), ...all.getSemanticDiagnostics(source)];
    return found.map(({ messageText }) => `${name}: ${ts.flattenDiagnosticMessageText(messageText, " ")}`);
  });
}
