/** For the tests of services: a token server in memory. `import { MemoryTokentill } from 'tokentill/testing'`. */

export { MemoryTokentill } from './memory';
export type { MemoryCall, MemoryEnd, MemoryHold, MemoryOptions } from './memory';
export type { Price, PriceFields, ProfitRule } from './prices';
