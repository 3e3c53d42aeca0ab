/** Response bodies that are made while the client reads them. */
import type { Clock } from "../clock.ts";

/** A body that is made as fast as it is read, one piece per turn of the event loop. */
export function inTurns(made: Iterator<Uint8Array, void>, clock: Clock): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      await clock.nextTurn();
      const { done, value } = made.next();
      if (done === true) controller.close();
      else controller.enqueue(value);
    },
  });
}
