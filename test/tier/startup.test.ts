/** What it costs to open a store of 10,000 records: how much is read, counted; how long it takes, printed. */
import { expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import type { RecordDraft } from "../../src/tier/record/record.ts";
import { SegmentBackend } from "../../src/tier/disk/segments.ts";
import { LOG_ENTRY_BYTES } from "../../src/tier/disk/segment-log.ts";
import { FakeMedium, World } from "../fault/fake-disk.ts";
import { chain, encoded } from "./make.ts";

const RECORDS = 10_000;

class CountingMedium extends FakeMedium {
  bytesRead = 0;

  override async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    const bytes = await super.read(name, offset, length);
    this.bytesRead += bytes.length;
    return bytes;
  }
}

test(`opening ${RECORDS} records reads ${LOG_ENTRY_BYTES} bytes for each and nothing else`, async () => {
  const world = new World(new Random(1));
  const writer = new SegmentBackend(new FakeMedium(world, 0), { segmentBytes: 1e6 });
  await writer.open();
  for (let i = 0; i < RECORDS / 1000; i++) {
    const drafts: RecordDraft[] = chain(i, 1000, { payloadBytes: 16 });
    await writer.append(encoded(drafts));
  }
  await writer.close();
  const medium = new CountingMedium(world, 1);
  const reader = new SegmentBackend(medium);
  const start = performance.now();
  const { added } = await reader.open();
  const ms = performance.now() - start;
  const { segments } = await reader.usage();
  console.log(`${added.length} records in ${segments} segments listed in ${ms.toFixed(1)} ms`);
  expect(added).toHaveLength(RECORDS);
  expect(medium.bytesRead).toBe(RECORDS * LOG_ENTRY_BYTES);
});
