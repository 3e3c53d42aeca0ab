/** A fetch that bounds the body of a response. The SDK would read all of it. */

/**
 * Bytes that are read of one reply. The longest replies of thinking models are far shorter.
 * @bound a reply of the model | the question fails
 */
const REPLY_BYTES_MAX = 1024 * 1024;
/** @bound a streamed reply of the model | the stream fails */
const STREAM_BYTES_MAX = 8 * 1024 * 1024;

export class TooLargeError extends Error {}

/**
 * Reading a body fails with {@link TooLargeError} at its bound.
 * @param replyBytesMax null: 1 MiB, or 8 MiB for an event stream.
 */
export function boundedFetch(base: typeof fetch, replyBytesMax: number | null = null): typeof fetch {
  const bounded = async (input: string | URL | Request, init?: RequestInit): Promise<Response> => {
    const response = await base(input, init);
    if (response.body === null) return response;
    const streams = response.headers.get("content-type")?.includes("event-stream") === true;
    const bytesMax = replyBytesMax ?? (streams ? STREAM_BYTES_MAX : REPLY_BYTES_MAX);
    if (isKnownToFit(response.headers, bytesMax)) return response;
    const { status, statusText, headers } = response;
    return new Response(boundedBody(response.body, bytesMax), { status, statusText, headers });
  };
  return bounded as typeof fetch;
}

function boundedBody(whole: ReadableStream, bytesMax: number): ReadableStream<Uint8Array> {
  const tooLarge = new TooLargeError(`the reply is larger than ${bytesMax} bytes`);
  const reader = whole.getReader() as Pick<ReadableStreamDefaultReader<Uint8Array>, "read" | "cancel">;
  let bytes = 0;
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await reader.read();
      if (done) return controller.close();
      bytes += value.byteLength;
      if (bytes <= bytesMax) return controller.enqueue(value);
      // Not awaited: a peer that keeps sending must not block us.
      void reader.cancel(tooLarge).catch(() => undefined);
      throw tooLarge;
    },
    cancel: (reason) => reader.cancel(reason),
  });
}

/** HTTP ends a body at its content-length. A body that is compressed or has no length may be of any size. */
function isKnownToFit(headers: Headers, bytesMax: number): boolean {
  const length = headers.get("content-length") ?? "";
  if (headers.has("content-encoding") || headers.has("transfer-encoding")) return false;
  return /^\d{1,9}$/.test(length) && Number(length) <= bytesMax;
}
