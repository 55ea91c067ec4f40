package bank;

import java.util.*;

/** Bookings by account. */
@Service
public class Ledger {
    private final Map<String, Long> balances = new HashMap<>();

    public Ledger() {}

    /**
     * Moves an amount from one account to the other.
     *
     * @throws IllegalStateException if there is not enough on the first
     */
    @Transactional
    public void transfer(String from, String to, long cents) {
        long held = balances.getOrDefault(from, 0L);
        if (held < cents) {
            throw new IllegalStateException(from + " holds " + held);
        }
        balances.merge(from, -cents, Long::sum);
        balances.merge(to, cents, Long::sum);
    }

    enum Side { DEBIT, CREDIT }

    interface Auditor {
        void seen(String from, String to, long cents);
    }
}
