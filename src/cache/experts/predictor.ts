/**
 * The learned predictor of experts: for a layer and a distance a small network with one hidden layer, which turns what a router
 * some layers before saw into scores of the layer's experts (ProMoE). Its file has the layout of safetensors, with the model that
 * it was trained for in `__metadata__`. It runs on the CPU; training is elsewhere, and so is the reading of files.
 */
import { integer, object, word, type Fields } from "../../check.ts";
import { TidepoolError } from "../../errors.ts";
import { insteadOf } from "../../file-kind.ts";

const FORMAT = "tidepool-expert-predictor-1";
const MAX_HEADER_BYTES = 2 ** 20;
const MAX_WIDTH = 2 ** 14;

/** The header says within so many bytes what it is: the metadata stand first. */
const MOST_BEFORE_FORMAT = 256;

/** Predicts a layer's experts from what a router before it saw. Layers count only those with experts. */
export interface ExpertPredictor {
  /** Distances in layers that it knows, ascending. */
  readonly distances: readonly number[];
  /** Scores of all experts of the layer `behind + distance`; undefined if it was not trained for that. */
  predict(behind: number, distance: number, input: Float32Array): Float32Array | undefined;
}

/** What a predictor must fit. */
export interface PredictedModel {
  /** Of the model's routers. */
  fingerprint: string;
  layers: number;
  experts: number;
  hiddenSize: number;
}

/** The weights of one network, row by row: in [width, hiddenSize], out [experts, width]. */
export interface PredictorNetwork {
  in: Float32Array;
  inBias: Float32Array;
  out: Float32Array;
  outBias: Float32Array;
}

/** Networks by "behind.distance". */
export type PredictorNetworks = ReadonlyMap<string, PredictorNetwork>;

const PARTS = ["in", "inBias", "out", "outBias"] as const;

interface Tensor {
  dtype: "F32";
  shape: number[];
  data_offsets: [number, number];
}

export class LearnedPredictor implements ExpertPredictor {
  readonly distances: readonly number[];
  private readonly model: PredictedModel;
  private readonly networks: PredictorNetworks;

  constructor(model: PredictedModel, networks: PredictorNetworks) {
    this.model = model;
    this.networks = networks;
    const distances = [...networks.keys()].map((name) => Number(name.split(".")[1]));
    this.distances = [...new Set(distances)].sort((a, b) => a - b);
  }

  predict(behind: number, distance: number, input: Float32Array): Float32Array | undefined {
    const network = this.networks.get(networkName(behind, distance));
    if (!network) return undefined;
    const hidden = layerOf(network.in, network.inBias, input);
    for (let i = 0; i < hidden.length; i++) hidden[i] = Math.max(0, hidden[i]!);
    return layerOf(network.out, network.outBias, hidden);
  }

  /** The predictor as a file. */
  write(): Uint8Array<ArrayBuffer> {
    const tensors: Record<string, Tensor> = {};
    const arrays: Float32Array[] = [];
    let at = 0;
    for (const [name, network] of this.networks)
      for (const part of PARTS) {
        const array = network[part];
        const end = at + array.byteLength;
        tensors[`${name}.${part}`] = {
          ...{ dtype: "F32", shape: shapeOf(part, this.model, network), data_offsets: [at, end] },
        };
        arrays.push(array);
        at = end;
      }
    const { fingerprint, ...sizes } = this.model;
    const numbers = Object.entries(sizes).map(([name, value]) => [name, String(value)]);
    const metadata = { format: FORMAT, fingerprint, ...(Object.fromEntries(numbers) as object) };
    const json = JSON.stringify({ __metadata__: metadata, ...tensors });
    const header = new TextEncoder().encode(json.padEnd(Math.ceil(json.length / 8) * 8));
    const bytes = new Uint8Array(8 + header.length + at);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(header.length), true);
    bytes.set(header, 8);
    let to = 8 + header.length;
    for (const array of arrays) {
      bytes.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), to);
      to += array.byteLength;
    }
    return bytes;
  }

  /** Reads a file. Throws `invalid_file` if it is malformed, `unsupported` if it was trained for another model. */
  static read(file: string, bytes: Uint8Array, expected: PredictedModel): LearnedPredictor {
    const fail = (problem: string): never => {
      throw new TidepoolError("invalid_file", `${file}: ${problem}`, { file });
    };
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (!isPredictor(bytes)) {
      const problem = insteadOf(`a learned predictor of experts (${FORMAT})`, bytes);
      throw new TidepoolError("invalid_file", `${file} ${problem}`, { file });
    }
    const length = bytes.length < 8 ? 0 : Number(view.getBigUint64(0, true));
    if (length === 0 || length > MAX_HEADER_BYTES || 8 + length > bytes.length)
      fail(`the header has ${length} bytes; expected 1 to ${MAX_HEADER_BYTES}, within the file`);
    const header = readJson(bytes.subarray(8, 8 + length), fail);
    const model = modelOf(header["__metadata__"], fail);
    for (const name of ["fingerprint", "layers", "experts", "hiddenSize"] as const)
      if (model[name] !== expected[name]) {
        throw new TidepoolError(
          "unsupported",
          `${file} was trained for another model: its ${name} is ${model[name]}, expected ${expected[name]}`,
          { file },
        );
      }
    const data = new Uint8Array(bytes.subarray(8 + length));
    return new LearnedPredictor(model, readNetworks(header, data, model, fail));
  }
}

/** Whether a file says that it is one, of this version or another; all else of it may be damaged. */
function isPredictor(bytes: Uint8Array): boolean {
  const name = FORMAT.replace(/\d+$/, "");
  return String.fromCharCode(...bytes.subarray(8, 8 + MOST_BEFORE_FORMAT)).includes(name);
}

type Fail = (problem: string) => never;

export function networkName(behind: number, distance: number): string {
  return `${behind}.${distance}`;
}

function layerOf(weights: Float32Array, bias: Float32Array, input: Float32Array): Float32Array {
  const output = new Float32Array(bias.length);
  const columns = input.length;
  for (let row = 0; row < output.length; row++) {
    let sum = bias[row]!;
    const first = row * columns;
    for (let i = 0; i < columns; i++) sum += weights[first + i]! * input[i]!;
    output[row] = sum;
  }
  return output;
}

function shapeOf(
  part: (typeof PARTS)[number],
  { experts, hiddenSize }: PredictedModel,
  { inBias }: Pick<PredictorNetwork, "inBias">,
): number[] {
  const width = inBias.length;
  return { in: [width, hiddenSize], inBias: [width], out: [experts, width], outBias: [experts] }[part];
}

function readJson(bytes: Uint8Array, fail: Fail): Record<string, unknown> {
  try {
    const json: unknown = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof json === "object" && json !== null) return json as Record<string, unknown>;
  } catch {
    // told below
  }
  return fail("the header is not a JSON object");
}

const metadataFields: Fields<Omit<PredictedModel, "fingerprint"> & { format: typeof FORMAT }> = {
  format: word(FORMAT),
  layers: integer(1, 1024),
  experts: integer(1, 4096),
  hiddenSize: integer(1, 2 ** 16),
};
const metadataRule = object<Omit<PredictedModel, "fingerprint"> & { format: typeof FORMAT }>(
  "a predictor's metadata",
  metadataFields,
  { format: true, layers: true, experts: true, hiddenSize: true },
);

function modelOf(metadata: unknown, fail: Fail): PredictedModel {
  if (typeof metadata !== "object" || metadata === null) return fail("__metadata__ is missing");
  const { fingerprint, format, ...sizes } = metadata as Record<string, unknown>;
  if (typeof fingerprint !== "string") return fail("__metadata__.fingerprint is missing");
  const numbers = Object.entries(sizes).map(([name, value]) => [name, Number(value)]);
  try {
    const read = metadataRule.read({ format, ...(Object.fromEntries(numbers) as object) }, "__metadata__");
    const { layers, experts, hiddenSize } = read;
    return { fingerprint, layers, experts, hiddenSize };
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error));
  }
}

function readNetworks(
  header: Record<string, unknown>,
  data: Uint8Array<ArrayBuffer>,
  model: PredictedModel,
  fail: Fail,
): PredictorNetworks {
  const networks = new Map<string, PredictorNetwork>();
  const names = new Set(Object.keys(header).flatMap((key) => /^(\d+\.\d+)\.\w+$/.exec(key)?.[1] ?? []));
  for (const name of names) {
    const width = (header[`${name}.inBias`] as Partial<Tensor> | undefined)?.shape?.[0];
    if (width === undefined || !Number.isInteger(width) || width < 1 || width > MAX_WIDTH)
      return fail(`${name}.inBias has ${String(width)} elements; expected 1 to ${MAX_WIDTH}`);
    const parts = PARTS.map((part): [string, Float32Array] => {
      const shape = shapeOf(part, model, { inBias: new Float32Array(width) });
      return [part, readTensor(`${name}.${part}`, header, data, shape, fail)];
    });
    networks.set(name, Object.fromEntries(parts) as unknown as PredictorNetwork);
  }
  if (networks.size === 0) fail("it has no networks");
  return networks;
}

function readTensor(
  name: string,
  header: Record<string, unknown>,
  data: Uint8Array<ArrayBuffer>,
  shape: readonly number[],
  fail: Fail,
): Float32Array {
  const { dtype, shape: given, data_offsets: offsets } = (header[name] ?? {}) as Partial<Tensor>;
  const elements = shape.reduce((product, each) => product * each, 1);
  if (dtype !== "F32" || given?.join() !== shape.join())
    fail(`${name} is ${String(dtype)} [${given?.join()}]; expected F32 [${shape.join()}]`);
  const [from, to] = Array.isArray(offsets) ? offsets : [NaN, NaN];
  const isWithin = Number.isInteger(from) && from >= 0 && to - from === 4 * elements && to <= data.length;
  if (!isWithin) fail(`${name} lies at ${from} to ${to}; expected ${4 * elements} of ${data.length} bytes`);
  const values = new Float32Array(data.slice(from, to).buffer);
  if (!values.every(Number.isFinite)) fail(`${name} has a value that is not finite`);
  return values;
}
