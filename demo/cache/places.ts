/** What the places of the cache are called on the page. A tier without words of its own goes by the name that the engine has for it. */

export interface Place {
  id: string;
  name: string;
  what: string;
}

const WORDS: Readonly<Record<string, Omit<Place, "id">>> = {
  gpu: { name: "GPU", what: "used without a copy" },
  ram: { name: "Memory", what: "a copy away, until the page closes" },
  disk: { name: "Disk", what: "there after a reload" },
};

export function placeOf(id: string): Place {
  return { id, ...(WORDS[id] ?? { name: id, what: "another tier" }) };
}
