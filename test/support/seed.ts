/** The seed of a randomised test: fresh each run and printed, or the value of the environment variable SEED. */
export function testSeed(label: string): number {
  const given = typeof process === "undefined" ? undefined : process.env["SEED"];
  const seed = given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(given);
  console.log(`${label}: SEED=${seed}`);
  return seed;
}
