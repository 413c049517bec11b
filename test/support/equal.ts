/** Deep equality for GPU cases, which run where no test library does. */

/** Throws unless both have the same JSON form; shows the first difference. */
export function equal(actual: unknown, expected: unknown, what: string): void {
  const got = JSON.stringify(actual) ?? "undefined";
  const want = JSON.stringify(expected) ?? "undefined";
  if (got === want) return;
  let at = 0;
  while (got[at] === want[at]) at++;
  const from = Math.max(0, at - 40);
  throw new Error(`${what}: ...${got.slice(from, at + 60)}..., expected ...${want.slice(from, at + 60)}...`);
}
