/** Who may call: with a token whoever has it, without one the programs of this machine and no web page. */
import { timingSafeEqual } from "node:crypto";
import { isIP } from "node:net";
import { hostname } from "node:os";
import type { Config } from "../config/config.ts";
import type { Refused } from "./contract.ts";

export interface AccessOptions {
  readonly config: Pick<Config, "host" | "token" | "insecure">;
  /** Whether a host's name or address is this machine's loopback. */
  readonly isLoopback: (host: string) => boolean;
}

/** null: the sender may ask. */
export type Guard = (headers: Headers) => Refused | null;

/** What stands before every route, chosen once by the configuration. */
export function guardOf(options: AccessOptions): Guard {
  const { token } = options.config;
  return token === null ? hostGuard(options) : tokenGuard(token);
}

function sha256(bytes: Uint8Array): Uint8Array {
  return Bun.SHA256.hash(bytes) as Uint8Array;
}

/** Compares digests in constant time: neither the token's length nor its beginning can be felt out. */
function tokenGuard(token: string): Guard {
  const expected = sha256(Buffer.from(token));
  const hint = "send the header Authorization: Bearer TOKEN";
  return (headers) => {
    const value = headers.get("authorization");
    if (value === null) return { code: "unauthorized", detail: "the request has no token", hint };
    if (!/^bearer /i.test(value))
      return { code: "unauthorized", detail: "the token is no bearer token", hint };
    // Header values are bytes that arrive as Latin-1.
    const given = sha256(Buffer.from(value.slice("bearer ".length).trim(), "latin1"));
    return timingSafeEqual(given, expected)
      ? null
      : { code: "unauthorized", detail: "the token is wrong", hint };
  };
}

/** The name in a Host header, lower case, without port and brackets; null where it is malformed. */
function hostName(host: string): string | null {
  const match = /^(?:\[([0-9a-f:.]+)\]|([^\s:/@[\]]+))(?::\d{1,5})?$/i.exec(host);
  return (match?.[1] ?? match?.[2])?.toLowerCase() ?? null;
}

/**
 * Without a token, a page in the user's browser must not get here: neither by its own name that resolves to this
 * machine (hence the Host), nor by a request across origins.
 */
function hostGuard({ config, isLoopback }: AccessOptions): Guard {
  const configured = config.host.toLowerCase();
  const wildcard = configured === "0.0.0.0" || configured === "::";
  const isAllowed = (name: string): boolean => {
    if (isLoopback(name)) return true;
    if (!config.insecure) return false;
    // A page can point a name of its own at this machine, but not an address.
    return name === configured || (wildcard && (isIP(name) !== 0 || name === hostname().toLowerCase()));
  };
  let knownHost = "";
  return (headers) => {
    const host = headers.get("host") ?? "";
    if (host !== knownHost) {
      const name = hostName(host);
      if (name === null || !isAllowed(name)) {
        return {
          code: "forbidden_host",
          detail: `the Host ${JSON.stringify(host)} is not this machine's loopback`,
          hint: "ask localhost, or start the gateway with --token",
        };
      }
      knownHost = host;
    }
    const origin = headers.get("origin");
    if (origin === null || origin.toLowerCase() === `http://${host.toLowerCase()}`) return null;
    return {
      code: "forbidden_origin",
      detail: `the Origin ${JSON.stringify(origin)} is foreign`,
      hint: "pages of other origins need a gateway with --token",
    };
  };
}
