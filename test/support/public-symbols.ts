/**
 * Lists what the package exports, with docstrings and examples, by TypeScript's own reading of the sources. It judges nothing and
 * runs nothing; test/package/examples.test.ts does.
 */
import ts from "typescript";

/** The package's entry points: what a program imports, and the file that exports it. */
export const ENTRY_POINTS = {
  tidepool: "src/index.ts",
  "tidepool/sim": "src/sim/index.ts",
  "tidepool/serve": "src/serve/index.ts",
} as const;

export type EntryPoint = keyof typeof ENTRY_POINTS;

/** What a caller uses (a value) or only names (a type). */
export type SymbolKind = "function" | "class" | "member" | "constant" | "type";

export interface Example {
  /** Text before the code, on the line of the tag. */
  title: string;
  /** The code of the fenced block; undefined if there is none. */
  code: string | undefined;
}

export interface PublicSymbol {
  /** `Engine.load` for a member. */
  name: string;
  from: EntryPoint;
  kind: SymbolKind;
  docstring: string;
  examples: Example[];
}

/** Everything that an entry point exports, with the public members of classes and the functions of exported objects. */
export function publicSymbols(program: ts.Program): PublicSymbol[] {
  const checker = program.getTypeChecker();
  return (Object.keys(ENTRY_POINTS) as EntryPoint[]).flatMap((from) => {
    const file = program.getSourceFile(ENTRY_POINTS[from]);
    const module = file && checker.getSymbolAtLocation(file);
    if (!module) throw new Error(`${ENTRY_POINTS[from]} is not part of the program`);
    return checker
      .getExportsOfModule(module)
      .map((symbol) => (symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol))
      .flatMap((symbol) => describe(symbol, symbol.name, from, checker));
  });
}

function describe(
  symbol: ts.Symbol,
  name: string,
  from: EntryPoint,
  checker: ts.TypeChecker,
): PublicSymbol[] {
  const kind = kindOf(symbol);
  const members = membersOf(symbol, kind, checker).map((member) => ({
    ...about(member, `${name}.${memberName(member)}`, from, checker),
    kind: "member" as const,
  }));
  return [{ ...about(symbol, name, from, checker), kind }, ...members];
}

function about(
  symbol: ts.Symbol,
  name: string,
  from: EntryPoint,
  checker: ts.TypeChecker,
): Omit<PublicSymbol, "kind"> {
  const tags = symbol.getJsDocTags(checker).filter((tag) => tag.name === "example");
  const examples = tags.map((tag) => readExample(ts.displayPartsToString(tag.text)));
  return {
    name,
    from,
    docstring: ts.displayPartsToString(symbol.getDocumentationComment(checker)),
    examples,
  };
}

export function readExample(text: string): Example {
  const code = /```ts\n([\s\S]*?)```/.exec(text)?.[1];
  return { title: text.split("```")[0]?.trim() ?? "", code };
}

function kindOf({ flags }: ts.Symbol): SymbolKind {
  if (flags & ts.SymbolFlags.Class) return "class";
  if (flags & ts.SymbolFlags.Function) return "function";
  return flags & ts.SymbolFlags.Variable ? "constant" : "type";
}

/** A class's public methods, accessors and properties, or the functions of an exported object. */
function membersOf(symbol: ts.Symbol, kind: SymbolKind, checker: ts.TypeChecker): ts.Symbol[] {
  if (kind === "class") {
    const own = checker.getPropertiesOfType(checker.getDeclaredTypeOfSymbol(symbol));
    const all = [...own, ...(symbol.exports?.values() ?? [])];
    return all.filter((member) => isDeclaredIn(member, symbol) && !isHidden(member));
  }
  const value = symbol.valueDeclaration;
  if (kind !== "constant" || !value || !ts.isVariableDeclaration(value) || !value.initializer) return [];
  const { properties } = checker.getTypeAtLocation(value.initializer) as { properties?: ts.Symbol[] };
  return (properties ?? []).filter(
    ({ valueDeclaration }) =>
      valueDeclaration &&
      ts.isPropertyAssignment(valueDeclaration) &&
      ts.isArrowFunction(valueDeclaration.initializer),
  );
}

const isDeclaredIn = (member: ts.Symbol, owner: ts.Symbol): boolean =>
  member.declarations?.some(({ parent }) => owner.declarations?.includes(parent as ts.Declaration)) ?? false;

/** Private, or for the package's own use. */
function isHidden(symbol: ts.Symbol): boolean {
  const hidden = ts.ModifierFlags.Private | ts.ModifierFlags.Protected;
  return (symbol.declarations ?? []).some(
    (declaration) =>
      (ts.getCombinedModifierFlags(declaration) & hidden) !== 0 ||
      ts.getJSDocTags(declaration).some((tag) => tag.tagName.text === "internal"),
  );
}

/** `[Symbol.asyncDispose]` in place of TypeScript's own name for it. */
function memberName({ name }: ts.Symbol): string {
  return name.startsWith("__@") ? `[Symbol.${name.slice(3).split("@")[0]}]` : name;
}
