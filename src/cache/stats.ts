/** What a prefix cache counts. Plain numbers, only ever added to (`bytesPeak`: raised). */
export interface PrefixStats {
  lookups: number;
  tokensAsked: number;
  tokensMatched: number;
  /** Lookups that found something: at a point where inputs branch, or behind a former request's end. */
  branchHits: number;
  endHits: number;
  flopsSaved: number;
  snapshotsTaken: number;
  /** Times that a victim was taken: a leaf removed or cut, or a snapshot dropped. */
  evictions: number;
  blocksEvicted: number;
  snapshotsEvicted: number;
  /** Evicted blocks of which no lower tier had a copy. */
  blocksForgotten: number;
  /** Insertions that found no room and were cut short or dropped. */
  insertsCut: number;
  bytesPeak: number;
}

export function newStats(): PrefixStats {
  return {
    lookups: 0,
    tokensAsked: 0,
    tokensMatched: 0,
    branchHits: 0,
    endHits: 0,
    flopsSaved: 0,
    snapshotsTaken: 0,
    evictions: 0,
    blocksEvicted: 0,
    snapshotsEvicted: 0,
    blocksForgotten: 0,
    insertsCut: 0,
    bytesPeak: 0,
  };
}
