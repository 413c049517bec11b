/**
 * Asks the browser to keep the site's storage when room runs short. Some browsers ask the user, others decide by
 * themselves; after a refusal stored prompts may be deleted one day. Workers cannot ask: the method exists in windows only
 * (https://storage.spec.whatwg.org/#storagemanager).
 */
export async function keepStored(): Promise<void> {
  const storage = navigator.storage as Partial<StorageManager> | undefined;
  if (!storage?.persist || !storage.persisted) return;
  if (!(await storage.persisted.call(storage))) await storage.persist.call(storage);
}
