CREATE VIEW ben.payments AS
  SELECT p.id, p.order_id, p.amount_cents, p.provider, p.paid_at FROM app.payments p;
COMMENT ON COLUMN ben.payments.amount_cents IS 'Before provider fees';

CREATE MATERIALIZED VIEW ben.cash_by_provider WITH (fillfactor = 90) AS
  SELECT provider, count(*) AS payments, max(amount_cents) AS largest_cents, sum(amount_cents) AS cents
  FROM ben.payments GROUP BY provider;
CREATE UNIQUE INDEX cash_by_provider_key ON ben.cash_by_provider (provider);
CREATE INDEX cash_by_provider_cents ON ben.cash_by_provider (cents DESC) WITH (fillfactor = 80);
COMMENT ON INDEX ben.cash_by_provider_cents IS 'For the dashboard''s ranking';

CREATE VIEW ben.growth AS
  SELECT month, revenue, round(100 * (revenue / lag(revenue) OVER (ORDER BY month) - 1), 1) AS percent
  FROM ana.revenue_by_month;

CREATE VIEW ben.churn_reasons AS
  SELECT s.cancel_reason, count(*) AS customers, sum(s.monthly_price) AS lost_per_month
  FROM app.subscriptions s WHERE s.cancelled_on IS NOT NULL GROUP BY s.cancel_reason;
COMMENT ON VIEW ben.churn_reasons IS 'Why people leave';

CREATE VIEW ben.churn_summary AS
  SELECT sum(customers) AS left_us, max(lost_per_month) AS costliest_reason FROM ben.churn_reasons;

GRANT USAGE ON SCHEMA ben TO ana;
GRANT SELECT ON ben.payments, ben.churn_reasons, ben.churn_summary TO ana;
GRANT SELECT ON ben.cash_by_provider TO ana WITH GRANT OPTION;
