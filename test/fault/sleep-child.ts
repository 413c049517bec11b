/**
 * A process that writes chains to the store in the folder given as its argument: one for each number that it reads, saying the
 * number again once the backend has acknowledged the chain. To be stopped and woken.
 */
import { createInterface } from "node:readline";
import { openFilesBackend } from "../../src/tier/disk/files.ts";
import { chain, encoded } from "../tier/make.ts";

const [folder] = process.argv.slice(2) as [string];
const backend = await openFilesBackend(folder, { segmentBytes: 4000 });
await backend.open();
process.stdout.write("opened\n");
for await (const line of createInterface(process.stdin)) {
  const seed = Number(line);
  if (seed === 0) break;
  await backend.append(encoded(chain(seed, 3)));
  process.stdout.write(`${seed}\n`);
}
await backend.close();
process.exit(0); // standard input would keep it alive
