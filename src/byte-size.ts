/** Sizes as people write them, "512MB" or "1.5GiB", as a number of bytes. One parser for every command. */

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
};

/** What `parseBytes` takes, for messages. */
export const BYTE_SIZE = "bytes (units: KB, MB, GB, TB, KiB, MiB, GiB, TiB)";

/** The whole number of bytes that a size stands for; NaN if the text is no size. */
export function parseBytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?(?:e\d+)?) ?([KMGT]?i?B)?$/i.exec(text.trim());
  const unit = UNITS[(match?.[2] ?? "").toUpperCase()];
  if (match === null || unit === undefined) return NaN;
  const bytes = Math.round(Number(match[1]) * unit);
  return Number.isSafeInteger(bytes) ? bytes : NaN;
}
