ALTER TABLE users ADD COLUMN country text NOT NULL DEFAULT 'DE';
ALTER TABLE users RENAME COLUMN full_name TO display_name;
ALTER TABLE order_items RENAME TO order_lines;
ALTER TABLE payments ALTER COLUMN amount_cents TYPE bigint;
ALTER TABLE subscriptions DROP COLUMN cancel_reason;
ALTER TYPE order_status ADD VALUE 'refunded' AFTER 'delivered';
CREATE TABLE refunds (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  order_id int NOT NULL REFERENCES orders,
  amount_cents bigint NOT NULL,
  reason text
);
