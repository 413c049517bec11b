/**
 * Asks the browser to keep what the site stores when room runs short. Some browsers ask the user, some decide by
 * themselves; a refusal changes nothing but that stored prompts may be gone one day. Workers cannot ask.
 */
export async function keepStored(): Promise<void> {
  const storage = navigator.storage as Partial<StorageManager> | undefined;
  if (!storage?.persist || !storage.persisted) return;
  if (!(await storage.persisted.call(storage))) await storage.persist.call(storage);
}
