/**
 * Listens on one port. If connections have taken all descriptors of the process, it closes the idle ones and listens again
 * when there is room. Otherwise Bun would try to accept without end, and nothing else could open a file.
 */
import type { Clock } from "../clock.ts";
import { GatewayError, messageOf } from "../errors.ts";
import type { Log } from "../log.ts";
import type { Descriptors } from "./descriptors.ts";

const LOOK_MS = 500;
const WARN_EVERY_MS = 60_000;

type ServeOptions = Parameters<typeof Bun.serve<undefined>>[0] & { hostname: string; port: number };

export interface ListenerOptions {
  readonly serve: ServeOptions;
  readonly descriptors: Descriptors;
  readonly clock: Clock;
  readonly log: Log;
  /** Called when connections have taken all descriptors. */
  readonly onExhausted: () => void;
}

export class Listener {
  readonly port: number;
  readonly #o: ListenerOptions;
  /** null while it does not listen, because descriptors are missing. */
  #server: Bun.Server<undefined> | null;
  /** They do not listen any more and finish their requests. */
  readonly #closing = new Set<Bun.Server<undefined>>();
  readonly #timer: Disposable;
  #warnedMs = Number.NEGATIVE_INFINITY;

  /** @throws GatewayError address_in_use if it cannot listen on the address. */
  constructor(options: ListenerOptions) {
    const { serve, descriptors, clock } = options;
    this.#o = options;
    this.#server = listen(serve);
    this.port = this.#server.port ?? serve.port;
    descriptors.reserve();
    this.#timer = clock.every(LOOK_MS, () => this.#look());
  }

  /** Requests that are being answered. */
  get pendingRequests(): number {
    let pending = this.#server?.pendingRequests ?? 0;
    for (const server of this.#closing) pending += server.pendingRequests;
    return pending;
  }

  #look(): void {
    const { descriptors } = this.#o;
    if (this.#server === null) this.#listenAgain();
    else if (!descriptors.areLeft) this.#closeIdle(this.#server);
  }

  #closeIdle(server: Bun.Server<undefined>): void {
    const { descriptors, clock, log } = this.#o;
    this.#o.onExhausted();
    this.#close(server);
    descriptors.release();
    if (clock.monotonicMs() - this.#warnedMs >= WARN_EVERY_MS) {
      this.#warnedMs = clock.monotonicMs();
      log(
        "warn",
        "http: connections have taken all file descriptors, so the idle ones are closed; raise the limit (ulimit -n) or open fewer connections (logged at most once a minute; /metrics counts all)",
      );
    }
    this.#listenAgain();
  }

  /** Does nothing as long as there are too few descriptors. The next look tries again. */
  #listenAgain(): void {
    const { descriptors, serve, log } = this.#o;
    if (!descriptors.reserve()) return;
    if (!descriptors.areLeft) {
      descriptors.release();
      return;
    }
    try {
      this.#server = listen({ ...serve, port: this.port });
    } catch (thrown) {
      log("error", `${messageOf(thrown)}; trying again`);
      descriptors.release();
    }
  }

  /**
   * Accepts no new connection. Closes idle ones at once, and the others after their response. While requests are under way,
   * Bun 1.4.5 leaves connections with half a head to their timeout; without any, all can be closed by force.
   */
  #close(server: Bun.Server<undefined>): void {
    this.#server = null;
    this.#closing.add(server);
    void server.stop(server.pendingRequests === 0).then(() => this.#closing.delete(server));
  }

  /** Accepts no new connection, and closes those that have no request. */
  close(): void {
    this.#timer[Symbol.dispose]();
    this.#o.descriptors.release();
    if (this.#server !== null) this.#close(this.#server);
  }

  /** Cuts off the requests under way. */
  async cut(): Promise<void> {
    this.close();
    await Promise.all([...this.#closing].map((server) => server.stop(true)));
  }
}

function listen(options: ServeOptions): Bun.Server<undefined> {
  try {
    return Bun.serve(options);
  } catch (thrown) {
    const inUse = (thrown as { code?: unknown }).code === "EADDRINUSE";
    throw new GatewayError({
      code: "address_in_use",
      operation: "http: listen on",
      object: `${options.hostname}:${options.port}`,
      detail: inUse ? "another program already listens there" : messageOf(thrown),
      hint: inUse ? "stop it, or pass another --port (0 takes a free one)" : "pass another --host or --port",
      cause: thrown,
    });
  }
}
