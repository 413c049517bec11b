/**
 * The checksum of records and segment logs: 128 bits in four independent 32-bit lanes, built for speed in plain JavaScript
 * (gigabytes a second), so that spill and restore run at the rate of the medium. Every step is a bijection of the lane
 * for a given word and of the word for a given lane, so a change inside any one word is always seen.
 * It finds accidents. It does not stop somebody who can write the store and wants to be believed.
 */
import { assert } from "../../base.ts";

export const CHECKSUM_BYTES = 16;

const P1 = 0x9e3779b1 | 0;
const P2 = 0x85ebca77 | 0;
const P3 = 0xc2b2ae3d | 0;
const P4 = 0x27d4eb2f | 0;

const littleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

/** The 16-byte checksum of `bytes`. */
export function checksum(bytes: Uint8Array): Uint8Array {
  assert(littleEndian, "the record format needs a little-endian machine");
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const lanes = absorb(aligned);
  const out = new Int32Array(4);
  for (let lane = 0; lane < 4; lane++) out[lane] = avalanche((lanes[lane] as number) ^ bytes.length);
  return new Uint8Array(out.buffer);
}

/** Runs the whole stripes of 16 bytes through the lanes, then the zero-padded rest as one more stripe. */
function absorb(bytes: Uint8Array): Int32Array {
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
  const whole = (bytes.length >>> 4) << 2;
  let a = P1;
  let b = P2;
  let c = P3;
  let d = P4;
  for (let i = 0; i < whole; i += 4) {
    a = step(a, words[i] as number);
    b = step(b, words[i + 1] as number);
    c = step(c, words[i + 2] as number);
    d = step(d, words[i + 3] as number);
  }
  const rest = new Uint8Array(16);
  rest.set(bytes.subarray(whole * 4));
  const tail = new Int32Array(rest.buffer);
  return Int32Array.of(
    step(a, tail[0] as number),
    step(b, tail[1] as number),
    step(c, tail[2] as number),
    step(d, tail[3] as number),
  );
}

function step(lane: number, word: number): number {
  const mixed = (lane + Math.imul(word, P2)) | 0;
  return Math.imul((mixed << 13) | (mixed >>> 19), P1);
}

function avalanche(lane: number): number {
  let x = lane;
  x = Math.imul(x ^ (x >>> 15), P2);
  x = Math.imul(x ^ (x >>> 13), P3);
  return x ^ (x >>> 16);
}

/** Whether two byte strings are the same. */
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
