CREATE VIEW ana.order_totals AS
  SELECT o.id AS order_id, o.user_id, o.status, o.placed_at,
         round(sum(i.quantity * i.unit_price) * (1 - o.discount / 100), 2) AS total
  FROM app.orders o JOIN app.order_items i ON i.order_id = o.id
  GROUP BY o.id, o.user_id, o.status, o.placed_at, o.discount;
COMMENT ON VIEW ana.order_totals IS 'What each order is worth after its discount';
COMMENT ON COLUMN ana.order_totals.total IS 'In euros';

CREATE VIEW ana.customers AS
  SELECT u.id, u.full_name, u.email, u.tags, u.preferences->>'language' AS language,
         count(t.order_id) AS orders, coalesce(sum(t.total), 0) AS revenue
  FROM app.users u LEFT JOIN ana.order_totals t ON t.user_id = u.id AND t.status <> 'cancelled'
  GROUP BY u.id, u.full_name, u.email, u.tags, u.preferences;

CREATE VIEW ana.top_customers WITH (security_barrier) AS
  SELECT full_name, orders, revenue, rank() OVER (ORDER BY revenue DESC) AS place
  FROM ana.customers WHERE 'vip' = ANY (tags);
COMMENT ON VIEW ana.top_customers IS 'The Monday meeting reads this';

CREATE MATERIALIZED VIEW ana.revenue_by_month AS
  SELECT date_trunc('month', placed_at)::date AS month, count(*) AS orders, sum(total) AS revenue
  FROM ana.order_totals WHERE status IN ('paid', 'shipped', 'delivered') GROUP BY 1;
CREATE UNIQUE INDEX revenue_by_month_key ON ana.revenue_by_month (month);
COMMENT ON MATERIALIZED VIEW ana.revenue_by_month IS 'Paid orders only';

GRANT USAGE ON SCHEMA ana TO ben;
GRANT SELECT ON ana.order_totals, ana.revenue_by_month TO ben;
GRANT SELECT (full_name, place) ON ana.top_customers TO ben;
