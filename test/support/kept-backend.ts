/** A medium in memory that outlives the stores which open it, as a folder does. */
import { RamBackend } from "../../src/tier/disk/ram.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import type { StoreOptions } from "../../src/tier/store/store-options.ts";

export class KeptBackend extends RamBackend {
  override close(): Promise<void> {
    return Promise.resolve();
  }

  /** A store over this medium; RAM that a process had before is gone. */
  openStore(options: Partial<StoreOptions> = {}): Promise<TierStore> {
    return TierStore.open({ ramBytes: 2 ** 26, diskBytes: 2 ** 28, disk: () => this, ...options });
  }
}
