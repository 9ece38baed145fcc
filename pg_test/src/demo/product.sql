-- The product: a shop with subscriptions. The numbers come from arithmetic on the row number, so that every run
-- of the demo tells the same story.
CREATE TYPE order_status AS ENUM ('pending', 'paid', 'shipped', 'delivered', 'cancelled');
CREATE TYPE plan AS ENUM ('starter', 'team', 'business');

CREATE TABLE users (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  email text NOT NULL UNIQUE,
  full_name text NOT NULL,
  signed_up_at timestamptz NOT NULL,
  preferences jsonb NOT NULL DEFAULT '{}',
  tags text[] NOT NULL DEFAULT '{}'
);
CREATE TABLE products (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  sku text NOT NULL UNIQUE,
  name text NOT NULL,
  price numeric(10,2) NOT NULL,
  categories text[] NOT NULL DEFAULT '{}',
  attributes jsonb NOT NULL DEFAULT '{}'
);
CREATE TABLE orders (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  user_id int NOT NULL REFERENCES users,
  status order_status NOT NULL DEFAULT 'pending',
  placed_at timestamptz NOT NULL,
  discount numeric(4,2) NOT NULL DEFAULT 0,
  shipping jsonb
);
CREATE TABLE order_items (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  order_id int NOT NULL REFERENCES orders,
  product_id int NOT NULL REFERENCES products,
  quantity int NOT NULL CHECK (quantity > 0),
  unit_price numeric(10,2) NOT NULL
);
CREATE TABLE subscriptions (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  user_id int NOT NULL REFERENCES users,
  plan plan NOT NULL,
  monthly_price numeric(8,2) NOT NULL,
  started_on date NOT NULL,
  cancelled_on date,
  cancel_reason text
);
CREATE TABLE payments (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  order_id int NOT NULL REFERENCES orders,
  amount_cents int NOT NULL,
  provider text NOT NULL,
  paid_at timestamptz NOT NULL,
  metadata jsonb NOT NULL DEFAULT '{}'
);

INSERT INTO users (email, full_name, signed_up_at, preferences, tags)
SELECT format('%s.%s%s@example.com', lower(first), lower(last), n), first || ' ' || last,
       timestamptz '2025-01-01 08:00+00' + n * interval '17 hours',
       jsonb_build_object('newsletter', n % 3 <> 0, 'language', (ARRAY['en','de','fr','es'])[1 + n % 4]),
       CASE WHEN n % 10 = 0 THEN ARRAY['vip', 'beta'] WHEN n % 4 = 0 THEN ARRAY['beta'] ELSE '{}' END
FROM generate_series(1, 500) n,
     LATERAL (SELECT (ARRAY['Ada','Grace','Alan','Edsger','Barbara','Donald','Radia','Tim','Frances','Ken'])[1 + n % 10] AS first,
                     (ARRAY['Miller','Ito','Okafor','Silva','Novak','Haddad','Larsen'])[1 + n % 7] AS last) who;

INSERT INTO products (sku, name, price, categories, attributes)
SELECT format('SKU-%s', lpad(n::text, 4, '0')),
       (ARRAY['Oak','Steel','Linen','Cork','Glass'])[1 + n % 5] || ' ' || (ARRAY['desk','lamp','chair','shelf','mug','clock'])[1 + n % 6],
       9.90 + (n * 37 % 240), ARRAY[(ARRAY['home','office'])[1 + n % 2], (ARRAY['sale','new','classic'])[1 + n % 3]],
       jsonb_build_object('colour', (ARRAY['black','white','green'])[1 + n % 3], 'weight_g', 200 + n * 55)
FROM generate_series(1, 60) n;

INSERT INTO orders (user_id, status, placed_at, discount, shipping)
SELECT 1 + (n * 31 + n * n / 7) % 500, (enum_range(NULL::order_status))[1 + (n * 7 + n / 11) % 5],
       timestamptz '2025-07-01 09:00+00' + n * interval '2 hours 10 minutes', (n % 5) * 2.5,
       jsonb_build_object('country', (ARRAY['DE','FR','ES','US'])[1 + n % 4], 'express', n % 6 = 0)
FROM generate_series(1, 2000) n;

INSERT INTO order_items (order_id, product_id, quantity, unit_price)
SELECT o.id, p.id, 1 + (o.id + line + o.id / 9) % 4, p.price
FROM orders o CROSS JOIN generate_series(1, 3) line JOIN products p ON p.id = 1 + (o.id * 13 + o.id / 7 + line * 29) % 60
WHERE line <= 1 + o.id % 3;

INSERT INTO subscriptions (user_id, plan, monthly_price, started_on, cancelled_on, cancel_reason)
SELECT n, (enum_range(NULL::plan))[1 + n % 3], (ARRAY[19, 49, 199])[1 + n % 3], date '2025-02-01' + n / 2,
       CASE WHEN n % 5 = 0 THEN date '2025-09-01' + n / 3 END,
       CASE WHEN n % 5 = 0 THEN (ARRAY['too expensive','missing a feature','moved to a competitor','project ended'])[1 + n / 5 % 4] END
FROM generate_series(1, 400) n;

INSERT INTO payments (order_id, amount_cents, provider, paid_at, metadata)
SELECT o.id, (sum(i.quantity * i.unit_price) * (100 - o.discount))::int, (ARRAY['stripe','paypal','invoice'])[1 + o.id % 3],
       o.placed_at + interval '5 minutes', jsonb_build_object('attempt', 1 + o.id % 2)
FROM orders o JOIN order_items i ON i.order_id = o.id
WHERE o.status IN ('paid', 'shipped', 'delivered') GROUP BY o.id ORDER BY o.id;

-- The login that the warehouse reads with. It may read, and nothing else.
GRANT USAGE ON SCHEMA public TO warehouse_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO warehouse_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO warehouse_reader;
ANALYZE;
