/**
 * Places vectors on the plane of the two directions in which recent vectors differ most (their first two principal components). Each
 * update starts from the previous plane, and turns the new one within itself until it lies as close to the previous one as possible. So
 * the picture follows the traffic and never flips, swaps its axes or jumps.
 */

/** Rounds of subspace iteration for the first plane, and for each later one. */
const ROUNDS_FIRST = 8;
const ROUNDS_NEXT = 2;
/** The first plane uses only this many vectors, so that its many rounds take no longer than a later update. */
const FIRST_VECTORS_MAX = 128;
/** How far each update moves the scale to its new value. */
const SCALE_SHARE = 0.25;
/** The share of the points that the scale puts between −1 and 1. */
const WITHIN = 0.97;

type Basis = readonly [Float64Array, Float64Array];

export class Projection {
  #basis: Basis | null = null;
  #mean: Float64Array = new Float64Array(0);
  /** mean · basis, precomputed so that placing a vector takes two dot products. */
  #offset: readonly [number, number] = [0, 0];
  #scale = 0;
  /** The share of the variance that lies in the plane, 0 to 1. */
  explained = 0;
  /** Grows whenever places change. */
  version = 0;

  /** Computes the plane of these vectors, which have one length. Fewer than two change nothing. */
  update(vectors: readonly Float32Array[]): void {
    const dim = vectors[0]?.length ?? 0;
    if (vectors.length < 2 || dim < 2) return;
    const before = this.#basis?.[0].length === dim ? this.#basis : null;
    this.#mean = meanOf(vectors, dim);
    let basis = before ?? firstBasis(dim);
    const step = Math.ceil(vectors.length / FIRST_VECTORS_MAX);
    const looked = before === null ? vectors.filter((_, index) => index % step === 0) : vectors;
    for (let round = 0; round < (before === null ? ROUNDS_FIRST : ROUNDS_NEXT); round++)
      basis = iterate(looked, this.#mean, basis);
    this.#basis = before === null ? basis : aligned(basis, before);
    this.#offset = [dot(this.#mean, this.#basis[0]), dot(this.#mean, this.#basis[1])];
    this.#measure(vectors, before === null);
    this.version += 1;
  }

  #measure(vectors: readonly Float32Array[], first: boolean): void {
    const reach: number[] = [];
    let inPlane = 0;
    let total = -vectors.length * dot(this.#mean, this.#mean);
    for (const vector of vectors) {
      const [x, y] = this.#raw(vector);
      inPlane += x * x + y * y;
      total += dot(vector, vector);
      reach.push(Math.max(Math.abs(x), Math.abs(y)));
    }
    this.explained = total <= 1e-12 ? 0 : Math.min(1, inPlane / total);
    reach.sort((a, b) => a - b);
    const scale = reach[Math.floor(WITHIN * (reach.length - 1))] ?? 0;
    this.#scale = first ? scale : this.#scale + SCALE_SHARE * (scale - this.#scale);
  }

  #raw(vector: Float32Array): [number, number] {
    const basis = this.#basis;
    if (basis === null || vector.length !== basis[0].length) return [0, 0];
    return [dot(vector, basis[0]) - this.#offset[0], dot(vector, basis[1]) - this.#offset[1]];
  }

  /** Where a vector lies; nearly all are between −1 and 1. */
  place(vector: Float32Array): readonly [x: number, y: number] {
    const [x, y] = this.#raw(vector);
    return this.#scale <= 1e-9 ? [0, 0] : [x / this.#scale, y / this.#scale];
  }
}

function dot(a: Float32Array | Float64Array, b: Float64Array): number;
function dot(a: Float32Array, b: Float32Array): number;
function dot(a: Float32Array | Float64Array, b: Float32Array | Float64Array): number {
  let sum = 0;
  for (let at = 0; at < a.length; at++) sum += (a[at] as number) * (b[at] as number);
  return sum;
}

function meanOf(vectors: readonly Float32Array[], dim: number): Float64Array {
  const mean = new Float64Array(dim);
  for (const vector of vectors)
    for (let at = 0; at < dim; at++) mean[at] = (mean[at] as number) + (vector[at] as number);
  for (let at = 0; at < dim; at++) mean[at] = (mean[at] as number) / vectors.length;
  return mean;
}

/** Two pseudo-random directions, the same at every start. They are almost never at right angles to the components sought. */
function firstBasis(dim: number): Basis {
  let state = 1;
  const direction = (): Float64Array =>
    Float64Array.from({ length: dim }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32 - 0.5;
    });
  return orthonormal([direction(), direction()]);
}

/** One round: multiplies each direction by the covariance of the vectors, then makes the two orthonormal again. */
function iterate(vectors: readonly Float32Array[], mean: Float64Array, basis: Basis): Basis {
  const [a, b] = basis;
  const dim = a.length;
  const meanA = dot(mean, a);
  const meanB = dot(mean, b);
  const nextA = new Float64Array(dim);
  const nextB = new Float64Array(dim);
  // If only some of the vectors are used, their places do not sum to zero; the mean's share is subtracted at the end.
  let sumA = 0;
  let sumB = 0;
  for (const vector of vectors) {
    const placeA = dot(vector, a) - meanA;
    const placeB = dot(vector, b) - meanB;
    sumA += placeA;
    sumB += placeB;
    for (let at = 0; at < dim; at++) {
      const value = vector[at] as number;
      nextA[at] = (nextA[at] as number) + placeA * value;
      nextB[at] = (nextB[at] as number) + placeB * value;
    }
  }
  for (let at = 0; at < dim; at++) {
    nextA[at] = (nextA[at] as number) - sumA * (mean[at] as number);
    nextB[at] = (nextB[at] as number) - sumB * (mean[at] as number);
  }
  // Vectors that are all equal, or on one line, leave a direction without length; it stays as it was.
  return orthonormal([norm(nextA) < 1e-12 ? a : nextA, norm(nextB) < 1e-12 ? b : nextB]);
}

const norm = (vector: Float64Array): number => Math.sqrt(dot(vector, vector));

function orthonormal([a, b]: Basis): Basis {
  const lengthA = norm(a);
  const first = a.map((value) => value / lengthA);
  const shared = dot(b, first);
  const rest = b.map((value, at) => value - shared * (first[at] as number));
  const lengthB = norm(rest);
  if (lengthB > 1e-12 * norm(b)) return [first, rest.map((value) => value / lengthB)];
  return [first, perpendicular(first)];
}

/** Some direction at right angles to `first`, always the same one: for a second direction that is parallel to the first. */
function perpendicular(first: Float64Array): Float64Array {
  const axis = Math.abs(first[0] ?? 0) < 0.9 ? 0 : 1;
  const shared = first[axis] ?? 0;
  const rest = first.map((value, at) => (at === axis ? 1 : 0) - shared * value);
  const length = norm(rest);
  return rest.map((value) => value / length);
}

/** The same plane, turned and if necessary mirrored to lie as close to the previous one as possible (orthogonal Procrustes). */
function aligned([a, b]: Basis, [oldA, oldB]: Basis): Basis {
  const aa = dot(a, oldA);
  const ab = dot(a, oldB);
  const ba = dot(b, oldA);
  const bb = dot(b, oldB);
  const turned = Math.hypot(aa + bb, ba - ab);
  const mirrored = Math.hypot(aa - bb, ab + ba);
  if (turned < 1e-9 && mirrored < 1e-9) return [a, b];
  const mix = (shareA: number, shareB: number): Float64Array =>
    a.map((value, at) => shareA * value + shareB * (b[at] as number));
  if (turned >= mirrored) {
    const cos = (aa + bb) / turned;
    const sin = (ba - ab) / turned;
    return [mix(cos, sin), mix(-sin, cos)];
  }
  const cos = (aa - bb) / mirrored;
  const sin = (ab + ba) / mirrored;
  return [mix(cos, sin), mix(sin, -cos)];
}
