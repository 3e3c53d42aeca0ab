/** DuckDB, native library included. The only module that imports the package; store.worker.ts the only one that imports this. */
import "./duckdb-preload.ts";

export * from "@duckdb/node-api";
