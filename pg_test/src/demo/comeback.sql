ALTER TABLE subscriptions ADD COLUMN cancel_reason text;
UPDATE subscriptions SET cancel_reason = 'asked again: ' ||
  (ARRAY['price', 'features', 'no need any more'])[1 + id % 3] WHERE cancelled_on IS NOT NULL;
