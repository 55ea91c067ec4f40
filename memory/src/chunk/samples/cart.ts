import { Item } from "./item";

/** What is paid for shipping. */
export type Rate = { upTo: number; price: number };

/** A basket that knows its total; prices are in cents, and never below nothing. */
@Injectable()
export class Cart {
  private items: Item[] = [];

  constructor(private readonly rates: Rate[]) {}

  /** Sum of all prices, with the shipping rate that fits the weight of what is in the basket added at the end. */
  total(): number {
    const goods = this.items.reduce((sum, item) => sum + item.price, 0);
    const weight = this.items.reduce((sum, item) => sum + item.weight, 0);
    const rate = this.rates.find((rate) => weight <= rate.upTo);
    return goods + (rate?.price ?? 0);
  }
}

// Two carts made one: items of the second go behind those of the first, and the rates of the first are kept.
export const merge = (a: Cart, b: Cart): Cart => {
  const merged = new Cart(a.rates);
  for (const item of [...a.items, ...b.items]) {
    merged.add(item);
  }
  return merged;
};

export namespace money {
  export function format(cents: number): string {
    const whole = Math.floor(cents / 100);
    const rest = String(cents % 100).padStart(2, "0");
    return `${whole}.${rest} EUR, taxes are included in this price and shipping is told on the next page`;
  }
}
