UPDATE orders SET status = 'refunded' WHERE status = 'delivered' AND id % 25 = 0;
INSERT INTO refunds (order_id, amount_cents, reason)
  SELECT p.order_id, p.amount_cents, 'damaged on arrival'
  FROM payments p JOIN orders o ON o.id = p.order_id WHERE o.status = 'refunded';
