/**
 * A process that spills for ever, to be killed: opens the store on the folder given as first argument and puts chain after
 * chain, from the number given as second. Says "opened", then each chain's number once the chain is drained to disk.
 */
import { openFilesBackend } from "../../src/tier/disk/files.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { chain } from "../tier/make.ts";
import { CHAIN_BLOCKS, SPILL_PAYLOAD_BYTES, SPILL_SEGMENT_BYTES } from "./spill-settings.ts";

const [folder, firstChain] = process.argv.slice(2) as [string, string];
const store = await TierStore.open({
  ramBytes: 1e6,
  diskBytes: 1e9,
  disk: () => openFilesBackend(folder, { segmentBytes: SPILL_SEGMENT_BYTES }),
});
process.stdout.write("opened\n");
for (let seed = Number(firstChain); ; seed++) {
  for (const draft of chain(seed, CHAIN_BLOCKS, { payloadBytes: SPILL_PAYLOAD_BYTES })) store.put(draft);
  const { left } = await store.drain(60_000);
  if (left === 0 && store.stateOf("disk") === "open") process.stdout.write(`${seed}\n`);
  if (seed % 4 === 3) await store.maintain();
}
