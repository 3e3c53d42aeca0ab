/** The tabs, in the order in which they are shown and numbered. Each has a view in this folder. */
export const TABS = ["events", "particles", "schemas", "chat", "metrics"] as const;
